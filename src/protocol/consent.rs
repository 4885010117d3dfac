//! A user's consent: the page that asks for it, what comes back, and what the code is exchanged for.
//!
//! From the vendor's pages on getting an authorisation code and a `user_access_token` (v2, v3), RFC 6749 (4.1) and RFC
//! 7636 (the proof key). The device flow (RFC 8628) is not in the vendor's documents; it follows the vendor's own
//! command-line tool.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::address::Address;
use super::api::Api;
use super::codes::{self, Verdict};
use super::grant::App;
use super::message::Request;
use super::oauth;
use super::secrets::Secrets;
use crate::error::Hint;

/// What is asked of the consent page.
pub(crate) struct ConsentRequest<'a> {
    pub(crate) app_id: &'a str,
    pub(crate) redirect_uri: &'a str,
    /// With `offline_access`, as [`super::scope()`] gives it.
    pub(crate) scope: &'a str,
    /// Comes back with the code, so that a forged answer is detected.
    pub(crate) state: &'a str,
    /// The proof key's hash.
    pub(crate) challenge: &'a str,
}

/// The address of the consent page.
pub(crate) fn page(accounts: &Address, asked: &ConsentRequest<'_>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("client_id", asked.app_id)
        .append_pair("response_type", "code")
        .append_pair("redirect_uri", asked.redirect_uri)
        .append_pair("scope", asked.scope)
        .append_pair("state", asked.state)
        .append_pair("code_challenge", asked.challenge)
        .append_pair("code_challenge_method", "S256");
    // A space as %20, which every server reads.
    let query = query.finish().replace('+', "%20");
    accounts.join(&format!("/open-apis/authen/v1/authorize?{query}"))
}

/// A random URL-safe text of 43 characters: a proof key or a state.
pub(crate) fn random_text(bytes: [u8; 32]) -> SecretString {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// The challenge for a proof key: S256.
pub(crate) fn challenge(verifier: &SecretString) -> String {
    let hash = digest::digest(&digest::SHA256, verifier.expose_secret().as_bytes());
    URL_SAFE_NO_PAD.encode(hash)
}

/// What came back from the consent page.
#[derive(Debug)]
pub(crate) enum ConsentAnswer {
    Code(SecretString),
    /// The user, or the server, said no.
    Denied(Denial),
    /// It is not the answer to this question.
    WrongState,
    /// It is not an answer.
    Other,
}

/// Why there is no consent.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) verdict: Verdict,
    /// The name of the error, and the server's text for it, fit to be shown.
    pub(crate) words: String,
    pub(crate) hint: Option<&'static Hint>,
}

impl Denial {
    /// What an error means, by its name.
    pub(super) fn new(error: &str, description: &str, secrets: &Secrets<'_>) -> Self {
        let entry = codes::look_up_consent_error(error);
        let words = if description.trim().is_empty() {
            error.to_owned()
        } else {
            format!("{error}: {description}")
        };
        Denial {
            verdict: entry.map_or(Verdict::Unexpected, |entry| entry.verdict),
            words: secrets.clean(&words, 240),
            hint: entry.map(|entry| &entry.hint),
        }
    }

    /// Whether it was the user's own no.
    pub(crate) fn is_refusal(&self) -> bool {
        self.verdict == Verdict::Reauthorize
    }
}

/// Reads the query of a callback. `secrets` must not be shown, nor its own.
pub(crate) fn answer(query: &str, state: &SecretString, mut secrets: Secrets<'_>) -> ConsentAnswer {
    let [mut code, mut error, mut description, mut given] = [const { String::new() }; 4];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "code" => code = value.into_owned(),
            "error" => error = value.into_owned(),
            "error_description" => description = value.into_owned(),
            "state" => given = value.into_owned(),
            _ => {}
        }
    }
    if code.is_empty() && error.is_empty() {
        return ConsentAnswer::Other;
    }
    if given != *state.expose_secret() {
        return ConsentAnswer::WrongState;
    }
    if error.is_empty() {
        return ConsentAnswer::Code(code.into());
    }
    secrets.add_text(code);
    secrets.add_text(given);
    ConsentAnswer::Denied(Denial::new(&error, &description, &secrets))
}

/// Reads what a person pasted: the address that the browser ended on, or the bare code.
pub(crate) fn pasted(text: &str, state: &SecretString, secrets: Secrets<'_>) -> ConsentAnswer {
    let text = text.trim().trim_matches(['"', '\'', '<', '>']);
    if let Some((_, query)) = text.split_once('?') {
        let query = query.split('#').next().unwrap_or_default();
        return answer(query, state, secrets);
    }
    let is_bare = crate::token::is_sendable(text) && !text.contains(['/', '&', '=', ':']);
    if is_bare {
        ConsentAnswer::Code(text.into())
    } else {
        ConsentAnswer::Other
    }
}

/// What a code is exchanged with.
#[derive(Debug)]
pub(crate) struct CodeGrant {
    pub(crate) app: App,
    pub(crate) code: SecretString,
    pub(crate) redirect_uri: String,
    pub(crate) verifier: SecretString,
}

impl CodeGrant {
    /// The request that exchanges the code, at v2 or v3.
    pub(crate) fn request(&self, api: Api) -> Request {
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", &self.app.id),
            ("client_secret", self.app.secret.expose_secret()),
            ("code", self.code.expose_secret()),
            ("redirect_uri", &self.redirect_uri),
            ("code_verifier", self.verifier.expose_secret()),
        ];
        oauth::request(api, &fields)
    }

    /// The values that must not be shown.
    pub(crate) fn secrets(&self) -> Secrets<'_> {
        let mut secrets = self.app.secrets();
        secrets.add(&self.code);
        secrets.add(&self.verifier);
        secrets
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// RFC 7636, appendix B.
    #[test]
    fn a_challenge_is_the_hash_of_the_proof_key() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into();
        assert_eq!(
            challenge(&verifier),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        let random = random_text([0xff; 32]);
        assert_eq!(random.expose_secret().len(), 43);
    }

    #[test]
    fn the_page_is_asked_for_as_documented() {
        let asked = ConsentRequest {
            app_id: "cli_1",
            redirect_uri: "http://localhost:8080/callback",
            scope: "offline_access auth:user.id:read",
            state: "s",
            challenge: "c",
        };
        let accounts = "https://accounts.feishu.cn/";
        let accounts = Address::of_service("accounts URL", accounts).unwrap();
        assert_eq!(
            page(&accounts, &asked),
            "https://accounts.feishu.cn/open-apis/authen/v1/authorize?client_id=cli_1\
             &response_type=code&redirect_uri=http%3A%2F%2Flocalhost%3A8080%2Fcallback\
             &scope=offline_access%20auth%3Auser.id%3Aread&state=s&code_challenge=c\
             &code_challenge_method=S256"
        );
    }

    #[test]
    fn an_answer_counts_only_with_the_right_state() {
        let state = &"s".into();
        let code = |query| match answer(query, state, Secrets::default()) {
            ConsentAnswer::Code(code) => code.expose_secret().to_owned(),
            ConsentAnswer::Denied(denial) => denial.words,
            other => format!("{other:?}"),
        };
        assert_eq!(code("code=a%2Fb&state=s"), "a/b");
        assert_eq!(code("state=s&code=1&more=2"), "1");
        assert_eq!(code("code=1&state=x"), "WrongState");
        assert_eq!(code("code=1"), "WrongState");
        assert_eq!(code("error=access_denied&state=x"), "WrongState");
        assert_eq!(code("error=access_denied&state=s"), "access_denied");
        assert_eq!(code("error=&code=1&state=s"), "1");
        assert_eq!(code("code=&state=s"), "Other");
        assert_eq!(code(""), "Other");
    }

    #[test]
    fn an_error_is_named_with_its_description_and_without_a_secret() {
        let state = &"the-state".into();
        let secret = "the-secret".into();
        let denied = |query: &str| {
            let secrets = [&secret].into_iter().collect();
            match answer(&format!("{query}&state=the-state"), state, secrets) {
                ConsentAnswer::Denied(denial) => (denial.verdict, denial.words),
                other => unreachable!("{other:?}"),
            }
        };
        for (error, verdict) in [
            ("access_denied", Verdict::Reauthorize),
            ("invalid_scope", Verdict::Config),
            ("unauthorized_client", Verdict::Config),
            ("server_error", Verdict::Temporary),
            ("temporarily_unavailable", Verdict::Temporary),
            ("no_such_error", Verdict::Unexpected),
        ] {
            assert_eq!(denied(&format!("error={error}")), (verdict, error.into()));
        }
        let words = "error_description=the-code+the-state%0A%1b+the-secret";
        let shown = denied(&format!("code=the-code&error=server_error&{words}")).1;
        assert_eq!(shown, "server_error: *** ***   ***");
        let long = denied(&format!("error=e&error_description={}", "x".repeat(9999))).1;
        assert!(long.len() < 300 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_person_may_paste_the_address_or_the_code() {
        let state = &"s".into();
        let code = |text| match pasted(text, state, Secrets::default()) {
            ConsentAnswer::Code(code) => code.expose_secret().to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            code(" http://localhost:8080/callback?code=abc&state=s#top\n"),
            "abc"
        );
        assert_eq!(
            code("\"http://localhost:8080/callback?code=abc&state=s\""),
            "abc"
        );
        assert_eq!(
            code("a61hb967bd094dge949h79bbexd16dfe\n"),
            "a61hb967bd094dge949h79bbexd16dfe"
        );
        assert_eq!(
            code("http://localhost:8080/callback?code=abc&state=x"),
            "WrongState"
        );
        for rubbish in [
            "",
            "http://localhost:8080/callback",
            "no code here",
            "code=abc",
        ] {
            assert_eq!(code(rubbish), "Other", "{rubbish}");
        }
    }
}
