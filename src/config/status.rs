//! What a file holds and until when, and what a next run would do with it. Sends nothing, takes no
//! lock, changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::document::Document;
use super::durable;
use super::order::AppProof;
use super::profile::{self, Place};
use super::replay;
use super::view::{Given, View};
use crate::error::{Error, Result};
use crate::protocol::Api;
use crate::token::Fingerprint;

/// One profile, as it stands.
pub(crate) struct Status {
    pub(crate) profile: String,
    /// None if this program does not know it.
    pub(crate) api: Option<Api>,
    pub(crate) access_token: Option<Held>,
    pub(crate) refresh_token: Option<Held>,
    pub(crate) next: Next,
}

/// A token that a file holds.
pub(crate) struct Held {
    pub(crate) fingerprint: Fingerprint,
    /// When it ends, if the file says so.
    pub(crate) expires_at: Option<Timestamp>,
}

/// What a next run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Refresh,
    /// Fetch an app token first.
    FetchAndRefresh,
    /// End in an error that a person can mend in the file or the call.
    Fail(String),
    /// End in an error: there is no refresh token.
    NoToken,
    /// End in an error: the refresh token has come to its end.
    Expired,
}

impl Next {
    /// Whether a refresh can work, as far as the file tells.
    pub(crate) fn can_work(&self) -> bool {
        matches!(self, Next::Refresh | Next::FetchAndRefresh)
    }
}

/// How the profiles of a file stand: the one named, or all sections that hold a token, or have a
/// place for one. What a dead run left is seen as the next run will put it back.
///
/// # Errors
/// [`crate::Kind::Config`] if the file cannot be understood, or has no section of that name.
pub(crate) fn status<'g>(
    file: &Path,
    profile: Option<&str>,
    given: &dyn Fn(&str) -> Given<'g>,
    now: Timestamp,
) -> Result<Vec<Status>> {
    let document = Arc::new(replay::foreseen(file)?);
    let names: Vec<String> = if let Some(name) = profile {
        super::check_profile_name(name)?;
        if !document.has_section(name) {
            let message = format!("{} has no section [{name}]", file.display());
            return Err(Error::config(message));
        }
        vec![name.to_owned()]
    } else {
        let sections = document.sections();
        let profiles = sections.filter(|section| profile::has_tokens(&document, section));
        profiles.map(str::to_owned).collect()
    };
    let stands = |name: &String| {
        let place = Place {
            file,
            profile: name,
        };
        one(place, given(name), Arc::clone(&document), now)
    };
    names.iter().map(stands).collect()
}

fn one(
    place: Place<'_>,
    given: Given<'_>,
    document: Arc<Document>,
    now: Timestamp,
) -> Result<Status> {
    given.check()?;
    let fail = |error: &Error| {
        // Whose it is, the reader knows.
        let message = error.to_string();
        let why = message.strip_prefix(&format!("{place}: "));
        Next::Fail(why.unwrap_or(&message).to_owned())
    };
    let profile = place.profile.to_owned();
    let view = match View::in_document(place, given, document) {
        Ok(view) => view,
        Err(error) => {
            return Ok(Status {
                profile,
                api: None,
                access_token: None,
                refresh_token: None,
                next: fail(&error),
            });
        }
    };
    let tokens = view.tokens();
    let held = |token, expires_at| Held {
        fingerprint: Fingerprint::of(token),
        expires_at,
    };
    let access_token = tokens.access_token.as_ref();
    let refresh_token = tokens.refresh_token.as_ref();
    let has_ended = tokens.refresh_expires_at.is_some_and(|end| end <= now);
    Ok(Status {
        profile,
        api: Some(view.api()),
        access_token: access_token.map(|token| held(token, tokens.access_expires_at)),
        refresh_token: refresh_token.map(|token| held(token, tokens.refresh_expires_at)),
        next: match view.order() {
            Err(_) if refresh_token.is_none() && given.refresh_token.is_none() => Next::NoToken,
            Err(error) => fail(&error),
            Ok(_) if has_ended && view.new_token().is_none() => Next::Expired,
            Ok(order) if matches!(order.app, AppProof::Fetch { .. }) => Next::FetchAndRefresh,
            Ok(_) => Next::Refresh,
        },
    })
}

/// The rescue files that hold something for the next run.
pub(crate) fn rescue_files(file: &Path) -> Vec<PathBuf> {
    durable::pending(file)
}

/// Who may do what with a file, as chmod counts it; none if it cannot be told.
pub(crate) fn mode(file: &Path) -> Option<u32> {
    durable::mode(file)
}
