//! Internals for the benches, the fuzz targets and the man page generator. Only with the feature `internals`, and not
//! stable.

use secrecy::{ExposeSecret, SecretString};

use crate::client::{LONGEST_REPLY, encoding};
use crate::protocol::consent::{CodeGrant, ConsentAnswer};
use crate::protocol::device::{DeviceGrant, Polled};
use crate::protocol::{
    self, Api, App, Credentials, Grant, Refusal, Reply, Response, Secrets, app_token, consent,
    device,
};
use crate::store::file::document::{Document, Edit};

/// The command line, as help, completions and man pages show it.
#[must_use]
pub fn command() -> clap::Command {
    crate::cli::help::shown()
}

/// The completion script for a shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> String {
    crate::cli::completions::script(shell)
}

/// Parses a file; returns its number of sections, none if it is refused.
#[must_use]
pub fn parse(text: &[u8]) -> Option<usize> {
    let document = Document::parse(text).ok()?;
    Some(document.sections().count())
}

/// Parses a file and splices values into one section; returns the new text, none if it is refused.
#[must_use]
pub fn splice(text: &[u8], section: &str, values: &[(&str, &str)]) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let values = values
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()));
    let edit = Edit {
        section,
        values: values.collect(),
    };
    let edited = document.with(&[&edit]).ok()?;
    Some(edited.text().to_owned())
}

/// Which reply is judged.
#[derive(Debug, Clone, Copy)]
pub enum ReplyTo {
    /// The reply to a refresh.
    Refresh(Api),
    /// The reply to a request for an app token.
    AppToken,
    /// The reply to the exchange of a code.
    Code,
    /// The reply to the request for a device's prompt.
    Prompt,
    /// The reply to a device's poll for its pair.
    Poll,
}

/// What a reply was taken for.
#[derive(Debug, Default)]
pub struct Judged {
    /// The refresh token that would be saved.
    pub refresh_token: Option<String>,
    /// All that a person would be shown.
    pub shown: Vec<String>,
}

/// Judges a reply to a request that sent `secret` in every place a secret can be.
#[must_use]
pub fn judge(
    reply_to: ReplyTo,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    secret: &str,
) -> Judged {
    let headers = headers.iter();
    let response = &Response {
        status,
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_vec(),
        ..Response::default()
    };
    let app = App {
        id: "cli_a".to_owned(),
        secret: secret.into(),
        ticket: Some(secret.into()),
    };
    let code = || SecretString::from(secret);
    match reply_to {
        ReplyTo::Refresh(api) => {
            let grant = Grant {
                refresh_token: secret.into(),
                credentials: Credentials::App(app),
                scope: None,
            };
            of_reply(api.refresh_reply(&grant, response))
        }
        ReplyTo::AppToken => match app_token::reply(&app, response) {
            Ok(_) => Judged::default(),
            Err(refusal) => of_refusal(refusal),
        },
        ReplyTo::Code => {
            let grant = CodeGrant {
                app,
                code: code(),
                redirect_uri: "http://localhost:8080/callback".to_owned(),
                verifier: secret.into(),
            };
            of_reply(protocol::code_reply(&grant, response))
        }
        ReplyTo::Prompt => match device::prompt(&app, response) {
            Ok(prompt) => Judged {
                refresh_token: None,
                shown: vec![prompt.user_code, prompt.page],
            },
            Err(refusal) => of_refusal(refusal),
        },
        ReplyTo::Poll => {
            let grant = DeviceGrant {
                app,
                device_code: code(),
            };
            match grant.polled(response) {
                Polled::Ended(reply) => of_reply(*reply),
                _ => Judged::default(),
            }
        }
    }
}

fn of_reply(reply: Reply) -> Judged {
    match reply {
        Reply::Refused(refusal) => of_refusal(refusal),
        Reply::Rotated(rotation) => {
            let flaws = rotation.flaws.into_iter().map(str::to_owned);
            Judged {
                refresh_token: rotation
                    .refresh_token
                    .map(|token| token.expose_secret().to_owned()),
                shown: flaws.chain(rotation.log_id).collect(),
            }
        }
    }
}

fn of_refusal(refusal: Refusal) -> Judged {
    Judged {
        refresh_token: None,
        shown: [Some(refusal.message), refusal.log_id]
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// A reply's body, decompressed as its `Content-Encoding` says, as far as it can be read.
#[must_use]
pub fn unpacked(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut response = Response {
        status: 200,
        headers: vec![("content-encoding".to_owned(), coding.to_owned())],
        body: body.to_vec(),
        ..Response::default()
    };
    encoding::unpack(&mut response, LONGEST_REPLY);
    response.body
}

/// The code found in what a browser or a person brings back from the consent page.
#[must_use]
pub fn code_of(pasted: &str, state: &str) -> Option<String> {
    match consent::pasted(pasted, &state.into(), Secrets::default()) {
        ConsentAnswer::Code(code) => Some(code.expose_secret().to_owned()),
        _ => None,
    }
}
