//! Which profiles of a file something must be sent for, and which are done without.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Audience, Profile};
use crate::config::{LockedProfiles, Profiles};
use crate::error::{Error, Hint, Result};
use crate::refresh::{Options, outcome};
use crate::token::Fingerprint;

/// Tells of all profiles without a lock or a network, if all of them last as long as was asked.
pub(super) fn tell_lasting(
    profiles: &Profiles<'_>,
    options: &Options,
    audience: &mut dyn Audience,
) -> Result<bool> {
    let names = profiles.names();
    let mut outcomes = Vec::new();
    for name in &names {
        let Ok(view) = profiles.view(name) else {
            return Ok(false);
        };
        let Some(tokens) = options.lasting(&view) else {
            return Ok(false);
        };
        outcomes.push(outcome(tokens.clone(), view.api(), false)?);
    }
    if outcomes.is_empty() {
        return Ok(false);
    }
    audience.expect(&names);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        audience.settled(index, Ok(outcome).into());
    }
    Ok(true)
}

/// The profiles that something must be sent for. What became of the others is told.
pub(super) fn due<'n>(
    locked: &LockedProfiles<'n>,
    names: &'n [String],
    before: Option<&Profiles<'n>>,
    options: &Options,
    audience: &mut dyn Audience,
) -> Vec<Profile<'n>> {
    let now = Timestamp::now();
    let owners = owners(locked.profiles(), names);
    let has_tokens = |name: &'n str| {
        let view = locked.profiles().view(name)?;
        let seen = before.and_then(|before| before.view(name).ok());
        let shared = seen.and_then(|seen| locked.saved_since(&view, &seen, now));
        if let Some(tokens) = shared.or_else(|| options.lasting(&view)) {
            return outcome(tokens.clone(), view.api(), false).map(Some);
        }
        let order = view.order()?;
        match owners.get(&Fingerprint::of(&order.refresh_token)) {
            Some(owner) if *owner != name => Err(twin(&order.subject, owner)),
            _ => Ok(None),
        }
    };
    let mut due = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match has_tokens(name).transpose() {
            None => due.push((index, name)),
            Some(result) => audience.settled(index, result.into()),
        }
    }
    due
}

/// Whose each refresh token is: the profile's that has spent it, else the first that holds it.
fn owners<'n>(profiles: &Profiles<'n>, names: &'n [String]) -> HashMap<Fingerprint, &'n str> {
    let view = |name: &'n String| Some((name.as_str(), profiles.view(name).ok()?));
    let views: Vec<_> = names.iter().filter_map(view).collect();
    let mut owners = HashMap::new();
    for (name, view) in &views {
        if let Some(token) = view.fingerprint() {
            owners.entry(token).or_insert(*name);
        }
    }
    for (name, view) in &views {
        for spent in view.spent() {
            owners.entry(spent).and_modify(|owner| *owner = name);
        }
    }
    owners
}

/// The error for a second profile with one refresh token: sent twice, it could end both logins.
fn twin(subject: &str, owner: &str) -> Error {
    let message = format!(
        "{subject}: has the refresh token of [{owner}], which works once; nothing was sent for it"
    );
    Error::config(message).with_hint(Hint::fixed(
        "give each profile a login of its own: feishu-refresh login -p NAME",
        "请为每个 profile 单独登录：feishu-refresh login -p 名称",
    ))
}
