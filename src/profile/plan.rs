//! What one refresh sends, and where: which source wins, and what goes to whom.
//!
//! Promises:
//! - A flag or environment variable beats the file, except for a refresh token that the file knows
//!   to be spent: its successor in the file is used instead (P9).

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::key;
use super::overrides::{Overrides, more_than_a_token};
use super::view::View;
use crate::error::{Error, Hint, Result};
use crate::protocol::{self, Address, Api, App, Authentication};
use crate::token::{self, Fingerprint, is_bare};

/// An app token with less left than this is not used if another can be had.
const APP_TOKEN_RESERVE: SignedDuration = SignedDuration::from_mins(5);

/// Everything one refresh sends, and where to.
#[derive(Debug)]
pub(crate) struct RefreshPlan {
    /// Whose refresh it is, for messages: the profile and its file.
    pub(crate) subject: String,
    pub(crate) api: Api,
    pub(crate) address: Address,
    pub(crate) refresh_token: SecretString,
    /// What the new token is narrowed to.
    pub(crate) scope: Option<String>,
    pub(crate) app: AppProof,
}

impl RefreshPlan {
    /// The fingerprint of the token that it spends.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.refresh_token)
    }

    /// Whether it still holds: the refresh token that it sends is the one to send.
    pub(crate) fn holds(&self, view: &View<'_>) -> bool {
        let current = view.token_to_send();
        current.is_some_and(|current| token::same(current, &self.refresh_token))
    }
}

/// What a login sends, and where to.
#[derive(Debug)]
pub(crate) struct LoginPlan {
    /// Whose login it is, for messages.
    pub(crate) subject: String,
    /// v2 or v3.
    pub(crate) api: Api,
    /// Where the consent is exchanged for a pair.
    pub(crate) address: Address,
    /// Where consent is asked for.
    pub(crate) accounts: Address,
    pub(crate) app: App,
    /// Where the browser is to come back to, if the file says so.
    pub(crate) redirect_uri: Option<String>,
    /// The endpoint of the login that it takes the place of.
    pub(crate) replaced: Option<Api>,
}

/// What there is to show which app asks.
#[derive(Debug)]
pub(crate) enum AppProof {
    /// The endpoint does not ask.
    None,
    /// App id and secret go with the refresh.
    App(App),
    /// Only the app's id goes with it: it has no secret.
    PublicApp(String),
    /// A token, and what gets another if the server calls it bad.
    Token {
        token: SecretString,
        renewable: Option<App>,
    },
    /// A token must be fetched first; if none can be had, one that is about to expire will do.
    Fetch { app: App, old: Option<SecretString> },
}

impl AppProof {
    /// What gets a new app token.
    pub(crate) fn renewable(&self) -> Option<&App> {
        match self {
            AppProof::Token { renewable, .. } => renewable.as_ref(),
            AppProof::Fetch { app, .. } => Some(app),
            AppProof::None | AppProof::App(_) | AppProof::PublicApp(_) => None,
        }
    }
}

impl View<'_> {
    /// What to send, and where.
    pub(crate) fn plan(&self) -> Result<RefreshPlan> {
        let refresh_token = self.token_to_send();
        let refresh_token = refresh_token.ok_or_else(|| self.missing(key::REFRESH_TOKEN))?;
        self.check_bare(key::REFRESH_TOKEN, refresh_token)?;
        self.check_unspent(refresh_token)?;
        self.check_refresh_token(refresh_token)?;
        let app = self.app_proof(self.snapshot().now())?;
        self.check_app_token(&app)?;
        Ok(RefreshPlan {
            subject: self.login().to_string(),
            api: self.api(),
            address: self.address(&app)?,
            refresh_token: refresh_token.clone(),
            scope: self.scope()?,
            app,
        })
    }

    /// Refuses a saved refresh token that cannot be sent as it is.
    ///
    /// # Errors
    /// [`crate::Kind::Config`], saying what is wrong with it.
    #[cfg(feature = "postgres")]
    pub(crate) fn check_own_token(&self) -> Result<()> {
        let Some(token) = &self.tokens().refresh_token else {
            return Ok(());
        };
        self.check_bare(key::REFRESH_TOKEN, token)?;
        self.check_unspent(token)?;
        self.check_refresh_token(token)
    }

    /// What a login needs of the file. One by device shows the app's secret where consent is asked
    /// for, too.
    pub(crate) fn login_plan(&self, by_device: bool) -> Result<LoginPlan> {
        let held = self.tokens().refresh_token.is_some();
        let without = Overrides {
            api: None,
            ..*self.given()
        };
        let replaced = View::of(self.snapshot(), without)
            .ok()
            .map(|view| view.api());
        let replaced = replaced.filter(|_| held);
        if replaced == Some(Api::Open115) {
            let message = format!(
                "{}: holds a login of 115, which this one is not",
                self.login()
            );
            return Err(Error::config(message).with_hint(Hint::fixed(
                "log in to another section, with -p; or remove its refresh_token",
                "请用 -p 登录到另一个节；或先移除该节的 refresh_token",
            )));
        }
        let endpoint = self.endpoint()?;
        if endpoint.address.is_whole() {
            return Err(self.no_consent(
                "a standard server's consent is not asked for here",
                Hint::fixed(
                    "get a refresh token as that server's documents say, and give it once with -r",
                    "请按该服务器的文档获取 refresh_token，并用 -r 传入一次",
                ),
            ));
        }
        let app = self
            .app()?
            .ok_or_else(|| self.lacks(self.missing_app_key()))?;
        let accounts = self.accounts()?.ok_or_else(|| {
            self.no_consent(
                "it is not known where this service asks for consent",
                Hint::fixed(
                    "name the host with --accounts-url or FEISHU_ACCOUNTS_URL",
                    "请用 --accounts-url 或 FEISHU_ACCOUNTS_URL 指定授权主机",
                ),
            )
        })?;
        if self.given().app_secret.is_some() {
            endpoint.check_trusted(self.login())?;
            if by_device {
                accounts.check_trusted(self.login())?;
            }
        }
        Ok(LoginPlan {
            subject: self.login().to_string(),
            api: self.api(),
            address: endpoint.address,
            accounts: accounts.address,
            app,
            redirect_uri: self.profile().redirect_uri.clone(),
            replaced,
        })
    }

    fn no_consent(&self, why: &str, hint: Hint) -> Error {
        Error::config(format!("{}: {why}", self.login())).with_hint(hint)
    }

    /// What the new token is to be narrowed to.
    pub(super) fn scope(&self) -> Result<Option<String>> {
        let Some(asked) = self.given().scope else {
            return Ok(None);
        };
        if !matches!(self.api(), Api::V2 | Api::V3) {
            let message = format!("{}: --scope is for api v2 and v3 only", self.login());
            return Err(Error::config(message).with_hint(Hint::fixed(
                "leave out --scope: the token has all that the user granted",
                "请去掉 --scope；令牌的权限以用户授权为准",
            )));
        }
        let scope = protocol::scope(asked);
        let scope =
            scope.ok_or_else(|| Error::config("the scope given is not a list of scopes"))?;
        Ok(Some(scope))
    }

    /// What shows the endpoint which app asks.
    fn app_proof(&self, now: Timestamp) -> Result<AppProof> {
        match self.api().authentication() {
            Authentication::None => Ok(AppProof::None),
            Authentication::App => match self.app()? {
                Some(app) => Ok(AppProof::App(app)),
                None => match self.app_id() {
                    Some(id) if self.endpoint()?.address.is_whole() => {
                        self.check_bare(key::APP_ID, &id.into())?;
                        Ok(AppProof::PublicApp(id.to_owned()))
                    }
                    _ => Err(self.missing_app()),
                },
            },
            Authentication::AppToken => {
                let app = self.app();
                let has_app = matches!(app, Ok(Some(_)));
                let own = self.profile().app_access_token.as_ref();
                let own = own.filter(|_| !self.is_for_another_app());
                // Its expiry only advises: with nothing better, it is tried.
                let lasting = own.filter(|_| !has_app || self.app_token_lasts(now));
                if let Some(token) = self.given().app_access_token.or(lasting) {
                    self.check_bare(key::APP_ACCESS_TOKEN, token)?;
                    return Ok(AppProof::Token {
                        token: token.clone(),
                        renewable: app.ok().flatten(),
                    });
                }
                match app? {
                    Some(app) => Ok(AppProof::Fetch {
                        app,
                        old: own.cloned(),
                    }),
                    // What was begun is to be completed.
                    None if self.app_id().is_some() || self.app_secret().is_some() => {
                        Err(self.missing_app())
                    }
                    None => Err(self.missing(key::APP_ACCESS_TOKEN)),
                }
            }
        }
    }

    /// Whether the app that was named is not the one that the file's app token is of.
    pub(super) fn is_for_another_app(&self) -> bool {
        let (given, own) = (self.given().app_id, self.profile().app_id.as_deref());
        given.zip(own).is_some_and(|(given, own)| given != own)
    }

    fn app_token_lasts(&self, now: Timestamp) -> bool {
        let lasts = |end: Timestamp| end.duration_since(now) > APP_TOKEN_RESERVE;
        self.profile().app_expires_at.is_none_or(lasts)
    }

    pub(super) fn app_id(&self) -> Option<&str> {
        self.given().app_id.or(self.profile().app_id.as_deref())
    }

    pub(super) fn app_secret(&self) -> Option<&SecretString> {
        let own = self.profile().app_secret.as_ref();
        self.given().app_secret.or(own)
    }

    pub(super) fn app_ticket(&self) -> Option<&SecretString> {
        let own = self.profile().app_ticket.as_ref();
        let own = own.filter(|_| !self.is_for_another_app());
        self.given().app_ticket.or(own)
    }

    /// App id, secret and ticket, if there are both of the first two.
    fn app(&self) -> Result<Option<App>> {
        let (Some(id), Some(secret)) = (self.app_id(), self.app_secret()) else {
            return Ok(None);
        };
        let ticket = self.app_ticket();
        self.check_bare(key::APP_ID, &id.into())?;
        self.check_bare(key::APP_SECRET, secret)?;
        ticket.map_or(Ok(()), |ticket| self.check_bare(key::APP_TICKET, ticket))?;
        Ok(Some(App {
            id: id.to_owned(),
            secret: secret.clone(),
            ticket: ticket.cloned(),
        }))
    }

    fn missing_app(&self) -> Error {
        self.missing(self.missing_app_key())
    }

    fn missing_app_key(&self) -> &'static str {
        match self.app_id() {
            None => key::APP_ID,
            Some(_) => key::APP_SECRET,
        }
    }

    /// Where to send it.
    fn address(&self, app: &AppProof) -> Result<Address> {
        let endpoint = self.endpoint()?;
        let given = self.given();
        let app_from_outside = given.app_secret.is_some() || given.app_ticket.is_some();
        let from_outside = match app {
            AppProof::None | AppProof::PublicApp(_) => false,
            AppProof::App(_) => given.app_secret.is_some(),
            AppProof::Fetch { .. } => app_from_outside,
            AppProof::Token { renewable, .. } => {
                let renews = renewable.is_some() && app_from_outside;
                given.app_access_token.is_some() || renews
            }
        };
        if from_outside || self.new_token().is_some() {
            endpoint.check_trusted(self.login())?;
        }
        Ok(endpoint.address)
    }

    /// Refuses what a person left around a value in the file.
    fn check_bare(&self, key: &str, value: &SecretString) -> Result<()> {
        if is_bare(value.expose_secret()) {
            return Ok(());
        }
        Err(more_than_a_token(
            &format!("{}: {key}", self.login()),
            value,
        ))
    }

    fn missing(&self, key: &str) -> Error {
        // With -r, it is to be made.
        if !self.snapshot().exists && self.given().refresh_token.is_none() {
            let error = self.snapshot().no_section();
            if !self.snapshot().others.is_empty() {
                return error;
            }
            let given = Overrides {
                api: Some(self.api()),
                ..*self.given()
            };
            return error.with_hint(given.missing());
        }
        if key == key::REFRESH_TOKEN && self.given().refresh_token.is_some() {
            let message = format!(
                "{}: the refresh token given is spent, its successor is gone",
                self.login()
            );
            return Error::config(message).with_hint(Hint::fixed(
                "if the section says that the login was moved to a store, name that with --store, and leave out -r; else log in again: feishu-refresh login",
                "若该节注明登录已移入数据库，请用 --store 指定它并去掉 -r；否则请重新登录：feishu-refresh login",
            ));
        }
        self.lacks(key)
    }

    fn lacks(&self, key: &str) -> Error {
        Error::config(format!("{}: no {key}, and none given", self.login())).with_hint(match key {
            key::REFRESH_TOKEN => Hint::fixed(
                "give one once with -r or FEISHU_REFRESH_TOKEN, or get one with feishu-refresh login",
                "请用 -r 或 FEISHU_REFRESH_TOKEN 传入一次，或用 feishu-refresh login 获取",
            ),
            key::APP_ACCESS_TOKEN => Hint::fixed(
                "give app_id and app_secret, and the program fetches it (in [ID], by --app-id and --app-secret, or FEISHU_APP_ID and FEISHU_APP_SECRET); or give it with -a or FEISHU_APP_ACCESS_TOKEN",
                "请提供 app_id 与 app_secret，由本程序自行获取（写入 [ID]，或用 --app-id 与 --app-secret，或 FEISHU_APP_ID 与 FEISHU_APP_SECRET）；也可用 -a 或 FEISHU_APP_ACCESS_TOKEN 传入",
            ),
            key::APP_ID => Hint::fixed(
                "give it with --app-id or FEISHU_APP_ID, or put it into [ID] or the section",
                "请用 --app-id 或 FEISHU_APP_ID 传入，或写入 [ID] 或该节",
            ),
            _ => Hint::fixed(
                "give it with --app-secret or FEISHU_APP_SECRET, or put it into [ID] or the section",
                "请用 --app-secret 或 FEISHU_APP_SECRET 传入，或写入 [ID] 或该节",
            ),
        })
    }
}
