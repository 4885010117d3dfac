//! How Feishu and 115 treat a request: the rules that make refreshing hard.
//!
//! A refresh token works once, and only at its own endpoint; a spent one is refused with the documented code. An app
//! token expires after two hours and is returned again while it has more than half an hour left. 115 refuses a second
//! refresh within a minute. The clock can be moved.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest;
use serde_json::{Value, json};

use super::Recorded;

/// The app that the stand-in knows, and another one with the same secret.
pub const APP_ID: &str = "cli_sandbox0a1b2c3d4e5f";
pub const OTHER_APP_ID: &str = "cli_sandbox9f8e7d6c5b4a";
pub const APP_SECRET: &str = "sandbox0-secret-Qm7xV2kPz9LwT4";
/// What the event would bring to that app if it were from the store.
pub const APP_TICKET: &str = "sandbox0-ticket-h5Rd8yNc3Jf6Bs";

/// What a user consented to.
pub const SCOPE: &str = "auth:user.id:read offline_access task:task:read";

/// Lifetimes in seconds, as documented.
const APP_TOKEN_LIFE: u64 = 7200;
const ACCESS_TOKEN_LIFE: u64 = 7140;
const REFRESH_TOKEN_LIFE: u64 = 2_591_940;
const V2_ACCESS_TOKEN_LIFE: u64 = 7200;
const V2_REFRESH_TOKEN_LIFE: u64 = 604_800;
const ACCESS_TOKEN_LIFE_115: u64 = 2_592_000;

/// Where v3 is, on the accounts' host.
pub const V3_PATH: &str = "/oauth/v3/token";
/// Where the stand-in is only an RFC 6749 server.
pub const STANDARD_PATH: &str = "/realms/sandbox/token";

/// An app token with more left than this is returned again.
const APP_TOKEN_REUSE: Duration = Duration::from_secs(1800);
const THROTTLE_115: Duration = Duration::from_secs(60);

/// The endpoints, by the names that `--api` gives them; v1 and oidc take the same tokens, and so do v2
/// and v3.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V1,
    V2,
    Open115,
}

impl Family {
    fn of(api: &str) -> Self {
        match api {
            "v2" | "v3" => Family::V2,
            "115" => Family::Open115,
            _ => Family::V1,
        }
    }
}

/// A refresh token that works.
struct Live {
    family: Family,
    refreshed_at: Option<Instant>,
}

/// A code that a consent gave, and what must be sent with it.
struct Code {
    client_id: String,
    redirect_uri: String,
    challenge: String,
    scope: String,
}

/// The vendors' state.
#[derive(Default)]
pub struct Vendor {
    serial: u64,
    /// Added to the clock: moving it makes tokens expire sooner.
    ahead: Duration,
    /// App tokens and their expiries.
    app_tokens: HashMap<String, Instant>,
    live: HashMap<String, Live>,
    spent: HashSet<String>,
    access_tokens: HashSet<String>,
    codes: HashMap<String, Code>,
    used_codes: HashSet<String>,
    /// Device codes, and the scope of each.
    devices: HashMap<String, String>,
    pub rotations: usize,
    pub spent_seen: usize,
}

/// HTTP status and body.
type Answer = (u16, Value);

fn refused(code: i64, msg: &str) -> Answer {
    (200, json!({ "code": code, "msg": msg }))
}

fn is_app(id: &Value) -> bool {
    *id == APP_ID || *id == OTHER_APP_ID
}

fn refused_by_v2(code: i64, error: &str, description: &str) -> Answer {
    let body = json!({ "code": code, "error": error, "error_description": description });
    (400, body)
}

fn refused_by_115(code: i64, message: &str) -> Answer {
    let body = json!({ "state": 0, "code": code, "message": message, "data": [], "error": "", "errno": code });
    (200, body)
}

impl Vendor {
    /// The number of the latest token.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    pub fn is_live(&self, refresh_token: &str) -> bool {
        self.live.contains_key(refresh_token)
    }

    pub fn gave(&self, access_token: &str) -> bool {
        self.access_tokens.contains(access_token)
    }

    /// A new app token, as if an app had just asked for its first.
    pub fn new_app_token(&mut self) -> String {
        let token = self.new_token(Family::V1, "a");
        let end = self.now() + Duration::from_secs(APP_TOKEN_LIFE);
        self.app_tokens.insert(token.clone(), end);
        token
    }

    /// A new refresh token for this api, as if a user had just consented.
    pub fn new_refresh_token(&mut self, api: &str) -> String {
        self.new_live(Family::of(api), None)
    }

    fn new_live(&mut self, family: Family, refreshed_at: Option<Instant>) -> String {
        let token = self.new_token(family, "ur");
        let live = Live {
            family,
            refreshed_at,
        };
        self.live.insert(token.clone(), live);
        token
    }

    /// A token that looks like the vendor's and is as long, different each time.
    fn new_token(&mut self, family: Family, kind: &str) -> String {
        self.serial += 1;
        let serial = self.serial;
        match family {
            Family::V1 => {
                format!("{kind}-sandbox{serial:04}.Jo5CjmZ8-F7vJ8mYNq_2WzQh.xUqPd3LtR9sKfBvEaGc")
            }
            Family::V2 => {
                let claims = "wLk5TqAe".repeat(150);
                format!(
                    "eyJhbGciOiJFUzI1NiIsInNhbmRib3gi.{kind}-sandbox{serial:04}{claims}.X6wrZHYK"
                )
            }
            Family::Open115 => format!("sandbox{serial:04}{kind}.8f0c2a6e4b1d.9a7b5c3d1e"),
        }
    }

    /// The result of a request; none if it is not for an endpoint.
    pub fn answer(&mut self, request: &Recorded) -> Option<Answer> {
        if request.method != "POST" {
            return None;
        }
        let body = if request.is_form() {
            let form = url::form_urlencoded::parse(request.body.as_bytes()).into_owned();
            Value::Object(
                form.map(|(name, value)| (name, Value::String(value)))
                    .collect(),
            )
        } else {
            serde_json::from_str(&request.body).unwrap_or_default()
        };
        match request.path.split('?').next().unwrap_or_default() {
            "/open-apis/auth/v3/app_access_token/internal" => Some(self.app_token(&body, false)),
            "/open-apis/auth/v3/app_access_token" => Some(self.app_token(&body, true)),
            "/open-apis/authen/v1/refresh_access_token" => {
                Some(self.refresh_v1(request, &body, None))
            }
            "/open-apis/authen/v1/oidc/refresh_access_token" => {
                Some(self.refresh_v1(request, &body, Some(SCOPE)))
            }
            "/open-apis/authen/v2/oauth/token" if request.is_form() => {
                let why = "The request body is malformed.";
                Some(refused_by_v2(20063, "invalid_request", why))
            }
            "/open-apis/authen/v2/oauth/token" | V3_PATH => Some(self.refresh_v2(&body)),
            STANDARD_PATH if request.is_form() => Some(self.refresh_at_standard_server(body)),
            "/oauth/v1/device_authorization" => Some(self.device(request)),
            "/open/refreshToken" => Some(self.refresh_115(&request.body)),
            _ => None,
        }
    }

    fn app_token(&mut self, body: &Value, from_store: bool) -> Answer {
        if !is_app(&body["app_id"]) {
            return refused(10003, "invalid app_id");
        }
        if body["app_secret"] != APP_SECRET {
            return refused(10014, "app secret invalid");
        }
        if from_store && body["app_ticket"] != APP_TICKET {
            return refused(10012, "app ticket invalid");
        }
        let now = self.now();
        let mut known = self.app_tokens.iter();
        let lasting = known.find(|(_, end)| **end > now + APP_TOKEN_REUSE);
        let token = lasting.map(|(token, _)| token.clone());
        let token = token.unwrap_or_else(|| self.new_app_token());
        let left = self.app_tokens[&token] - now;
        let mut reply = json!({
            "code": 0,
            "msg": "ok",
            "app_access_token": token,
            "expire": left.as_secs(),
        });
        if !from_store {
            reply["tenant_access_token"] = json!("t-sandbox");
        }
        (200, reply)
    }

    /// Spends a token; the caller chooses the refusal codes, for a spent token and for one of another endpoint.
    fn spend(&mut self, family: Family, token: &str) -> Result<(), Dead> {
        if self.spent.contains(token) {
            self.spent_seen += 1;
            return Err(Dead::Spent);
        }
        if self
            .live
            .get(token)
            .is_none_or(|live| live.family != family)
        {
            return Err(Dead::Unknown);
        }
        self.live.remove(token);
        self.spent.insert(token.to_owned());
        self.rotations += 1;
        Ok(())
    }

    /// The resulting pair.
    fn new_pair(&mut self, family: Family) -> (String, String) {
        let access = self.new_token(family, "u");
        self.access_tokens.insert(access.clone());
        let now = self.now();
        (access, self.new_live(family, Some(now)))
    }

    fn refresh_v1(&mut self, request: &Recorded, body: &Value, scope: Option<&str>) -> Answer {
        let bearer = request.headers.get("authorization");
        let Some(app_token) = bearer.and_then(|bearer| bearer.strip_prefix("Bearer ")) else {
            return refused(99_991_661, "Missing access token for authorization");
        };
        let end = self.app_tokens.get(app_token);
        if end.is_none_or(|end| *end < self.now()) {
            return refused(20014, "The app access token passed is invalid");
        }
        let (Some("refresh_token"), Some(token)) =
            (body["grant_type"].as_str(), body["refresh_token"].as_str())
        else {
            return refused(20001, "Invalid request. Please check request param");
        };
        if self.spend(Family::V1, token).is_err() {
            return refused(20026, "refresh token is invalid or has been used");
        }
        let (access, refresh) = self.new_pair(Family::V1);
        let mut data = json!({
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": ACCESS_TOKEN_LIFE,
            "name": "zhangsan",
            "open_id": "ou_sandbox",
            "refresh_expires_in": REFRESH_TOKEN_LIFE,
            "refresh_token": refresh,
        });
        if let Some(scope) = scope {
            data["scope"] = json!(scope);
        }
        (200, json!({ "code": 0, "msg": "success", "data": data }))
    }

    /// An RFC 6749 server: it knows public clients, but not Feishu's codes.
    fn refresh_at_standard_server(&mut self, mut body: Value) -> Answer {
        if body.get("client_secret").is_none() {
            body["client_secret"] = json!(APP_SECRET);
        }
        let (status, mut reply) = self.refresh_v2(&body);
        for name in ["code", "refresh_token_expires_in"] {
            reply.as_object_mut().map(|reply| reply.remove(name));
        }
        (status, reply)
    }

    fn refresh_v2(&mut self, body: &Value) -> Answer {
        if !is_app(&body["client_id"]) {
            return refused_by_v2(20048, "invalid_client", "The specified app does not exist.");
        }
        if body["client_secret"] != APP_SECRET {
            return refused_by_v2(20002, "invalid_client", "The client secret is invalid.");
        }
        if body["grant_type"] == "authorization_code" {
            return self.exchange(body);
        }
        if body["grant_type"] == "urn:ietf:params:oauth:grant-type:device_code" {
            // A user who consents at once.
            let code = body["device_code"].as_str().unwrap_or_default();
            return match self.devices.remove(code) {
                Some(scope) => self.pair_of_v2(&scope),
                None => (400, json!({ "error": "invalid_grant" })),
            };
        }
        if body["grant_type"] != "refresh_token" {
            let why = "The specified grant_type is not supported.";
            return refused_by_v2(20036, "unsupported_grant_type", why);
        }
        let Some(token) = body["refresh_token"].as_str() else {
            return refused_by_v2(
                20001,
                "invalid_request",
                "The request is missing a required parameter.",
            );
        };
        let scope = body["scope"].as_str().unwrap_or(SCOPE);
        let scopes: Vec<_> = scope.split(' ').collect();
        if scopes.iter().collect::<HashSet<_>>().len() < scopes.len() {
            return refused_by_v2(
                20067,
                "invalid_scope",
                "The provided scope list contains duplicate scopes.",
            );
        }
        if scopes
            .iter()
            .any(|scope| !SCOPE.split(' ').any(|granted| granted == *scope))
        {
            return refused_by_v2(
                20068,
                "invalid_scope",
                "The provided scope list contains scopes that are not permitted.",
            );
        }
        match self.spend(Family::V2, token) {
            Ok(()) => {}
            Err(Dead::Spent) => {
                return refused_by_v2(
                    20064,
                    "invalid_grant",
                    "The refresh token has been revoked.",
                );
            }
            Err(Dead::Unknown) => {
                return refused_by_v2(
                    20026,
                    "invalid_grant",
                    "The refresh token passed is invalid.",
                );
            }
        }
        self.pair_of_v2(scope)
    }

    fn pair_of_v2(&mut self, scope: &str) -> Answer {
        let (access, refresh) = self.new_pair(Family::V2);
        let mut reply = json!({
            "code": 0,
            "access_token": access,
            "expires_in": V2_ACCESS_TOKEN_LIFE,
            "scope": scope,
            "token_type": "Bearer",
        });
        if scope.split(' ').any(|scope| scope == "offline_access") {
            reply["refresh_token"] = json!(refresh);
            reply["refresh_token_expires_in"] = json!(V2_REFRESH_TOKEN_LIFE);
        }
        (200, reply)
    }

    /// The consent page: links back for yes and no, and a forged one. An unattended browser follows the one that the
    /// address ends on, like `#agree`.
    pub fn consent_page(&mut self, query: &str) -> String {
        let asked: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let of = |name: &str| asked.get(name).cloned().unwrap_or_default();
        self.serial += 1;
        let code = format!("sandbox{:04}code", self.serial);
        let link = |pairs: &[(&str, &str)]| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(pairs).append_pair("state", &of("state"));
            format!("{}?{}", of("redirect_uri"), query.finish()).replace('&', "&amp;")
        };
        let (yes, no) = (
            link(&[("code", &code)]),
            link(&[("error", "access_denied")]),
        );
        let back = of("redirect_uri");
        let forged = format!("{back}?code=forged&amp;state=forged");
        let granted = Code {
            client_id: of("client_id"),
            redirect_uri: of("redirect_uri"),
            challenge: of("code_challenge"),
            scope: of("scope"),
        };
        self.codes.insert(code, granted);
        format!(
            "<!DOCTYPE html><meta charset=utf-8><title>Consent</title>\n\
             <p><a id=agree href=\"{yes}\">Agree</a>\n<p><a id=refuse href=\"{no}\">Refuse</a>\n\
             <p><a id=forge href=\"{forged}\">Forge</a>\n\
             <script>document.getElementById(location.hash.slice(1))?.click()</script>\n"
        )
    }

    /// A code for a device.
    fn device(&mut self, request: &Recorded) -> Answer {
        let form = url::form_urlencoded::parse(request.body.as_bytes()).into_owned();
        let form: HashMap<String, String> = form.collect();
        let basic = STANDARD.encode(format!("{APP_ID}:{APP_SECRET}"));
        let authorization = request.headers.get("authorization");
        if authorization != Some(&format!("Basic {basic}")) || form["client_id"] != APP_ID {
            return (401, json!({ "error": "invalid_client" }));
        }
        self.serial += 1;
        let code = format!("sandbox{:04}device", self.serial);
        self.devices.insert(code.clone(), form["scope"].clone());
        let reply = json!({
            "device_code": code,
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://accounts.feishu.cn/device",
            "verification_uri_complete": "https://accounts.feishu.cn/device?user_code=WDJB-MJHT",
            "expires_in": 240,
            "interval": 1,
        });
        (200, reply)
    }

    /// Gives a pair for a code.
    fn exchange(&mut self, body: &Value) -> Answer {
        let of = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        if self.used_codes.contains(&of("code")) {
            return refused_by_v2(
                20065,
                "invalid_grant",
                "The authorization code has been used.",
            );
        }
        let Some(code) = self.codes.remove(&of("code")) else {
            return refused_by_v2(
                20003,
                "invalid_grant",
                "The authorization code is not found.",
            );
        };
        self.used_codes.insert(of("code"));
        if code.client_id != of("client_id") {
            return refused_by_v2(
                20024,
                "invalid_grant",
                "The code does not match the client ID.",
            );
        }
        if code.redirect_uri != of("redirect_uri") {
            return refused_by_v2(20071, "invalid_grant", "The redirect URI does not match.");
        }
        let hash = digest::digest(&digest::SHA256, of("code_verifier").as_bytes());
        if URL_SAFE_NO_PAD.encode(hash) != code.challenge {
            return refused_by_v2(20049, "invalid_grant", "PKCE code challenge failed.");
        }
        self.pair_of_v2(&code.scope)
    }

    fn refresh_115(&mut self, form: &str) -> Answer {
        let Some(token) = form.strip_prefix("refresh_token=") else {
            return refused_by_115(40_140_114, "refresh_token is missing");
        };
        let last = self.live.get(token).and_then(|live| live.refreshed_at);
        if last.is_some_and(|last| self.now() < last + THROTTLE_115) {
            return refused_by_115(40_140_117, "refreshed too often");
        }
        if self.spend(Family::Open115, token).is_err() {
            return refused_by_115(40_140_120, "refresh_token check failed");
        }
        let (access, refresh) = self.new_pair(Family::Open115);
        let data = json!({
            "access_token": access,
            "refresh_token": refresh,
            "expires_in": ACCESS_TOKEN_LIFE_115,
        });
        let reply =
            json!({ "state": 1, "code": 0, "message": "", "data": data, "error": "", "errno": 0 });
        (200, reply)
    }
}

/// Why a refresh token does not work.
enum Dead {
    Spent,
    Unknown,
}
