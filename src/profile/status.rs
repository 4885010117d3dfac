//! A login's state, and what the next run would do with it.

use jiff::Timestamp;

use super::overrides::Overrides;
use super::plan::AppProof;
use super::snapshot::Snapshot;
use super::view::View;
use crate::error::{Error, Result};
use crate::protocol::Api;
use crate::token::Fingerprint;

/// The state of one profile.
pub(crate) struct Status {
    pub(crate) profile: String,
    /// None if this program does not know it.
    pub(crate) api: Option<Api>,
    pub(crate) access_token: Option<HeldToken>,
    pub(crate) refresh_token: Option<HeldToken>,
    pub(crate) next: NextStep,
}

impl Status {
    /// The state of a login that cannot be read.
    pub(crate) fn unreadable(profile: String, error: &Error) -> Self {
        Status {
            profile,
            api: None,
            access_token: None,
            refresh_token: None,
            next: NextStep::Fail(error.to_string()),
        }
    }
}

/// A token that a store holds.
pub(crate) struct HeldToken {
    pub(crate) fingerprint: Fingerprint,
    /// When it ends, if the store says so.
    pub(crate) expires_at: Option<Timestamp>,
}

/// What the next run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NextStep {
    Refresh,
    /// Fetch an app token first.
    FetchAndRefresh,
    /// End in an error that a person can fix in the store or the call.
    Fail(String),
    /// End in an error: there is no refresh token.
    NoToken,
    /// End in an error: the refresh token has expired.
    Expired,
    /// End in an error, most likely: the server has called the refresh token dead.
    Refused,
}

impl NextStep {
    /// Whether a refresh can work, as far as the file tells.
    pub(crate) fn can_work(&self) -> bool {
        matches!(self, NextStep::Refresh | NextStep::FetchAndRefresh)
    }
}

/// The state of a login.
///
/// # Errors
/// [`crate::Kind::Config`] if what was given makes no sense.
pub(crate) fn status(snapshot: &Snapshot, given: Overrides<'_>, now: Timestamp) -> Result<Status> {
    given.check()?;
    let login = &snapshot.login;
    let fail = |error: &Error| {
        // The reader knows whose it is.
        let message = error.to_string();
        let why = message.strip_prefix(&format!("{login}: "));
        NextStep::Fail(why.unwrap_or(&message).to_owned())
    };
    let profile = login.profile.clone();
    let view = match View::of(snapshot, given) {
        Ok(view) => view,
        Err(error) => {
            return Ok(Status {
                next: fail(&error),
                ..Status::unreadable(profile, &error)
            });
        }
    };
    let tokens = view.tokens();
    let held = |token, expires_at| HeldToken {
        fingerprint: Fingerprint::of(token),
        expires_at,
    };
    let access_token = tokens.access_token.as_ref();
    let refresh_token = tokens.refresh_token.as_ref();
    let has_ended = tokens.refresh_expires_at.is_some_and(|end| end <= now);
    Ok(Status {
        profile,
        api: Some(view.api()),
        access_token: access_token.map(|token| held(token, view.access_expires_at(now))),
        refresh_token: refresh_token.map(|token| held(token, view.refresh_expires_at(now))),
        next: match view.plan() {
            Err(_) if refresh_token.is_none() && given.refresh_token.is_none() => NextStep::NoToken,
            Err(error) => fail(&error),
            Ok(_) if has_ended && view.new_token().is_none() => NextStep::Expired,
            Ok(plan) if matches!(plan.app, AppProof::Fetch { .. }) => NextStep::FetchAndRefresh,
            Ok(_) => NextStep::Refresh,
        },
    })
}
