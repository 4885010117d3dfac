//! Consent on another device: a link and a short code, and polite asking until the user has answered.
//!
//! Experimental, as [`crate::protocol::device`] says. Each question could bring the pair, so that each
//! is asked with room for it.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use super::failure::{denied, refused};
use super::{LoggedIn, Login, LoginOptions};
use crate::client::Client;
use crate::error::{Error, Hint, Result};
use crate::exchange;
use crate::protocol::device::{self, DeviceGrant, Polled, Prompt};
use crate::protocol::{Refusal, Reply, Verdict};
use crate::refresh::{Hooks, Options, Outcome};
use crate::store::Store;
use crate::store::open::on_store;

/// How much longer to wait once the server calls the asking too quick (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// Gets a pair by a user's consent on another device, and saves it. Waits as long as the code lives, or
/// for `wait`, if that is shorter.
///
/// # Errors
/// See [`crate::Kind`]; nothing is changed unless a pair came.
pub(crate) fn run(
    options: &Options,
    login: &LoginOptions,
    show: &mut dyn FnMut(&Prompt),
    wait: Option<Duration>,
    hooks: &mut dyn Hooks,
    shield: fn(),
) -> Result<LoggedIn> {
    on_store!(options, shield, |store| {
        let attempt = Login::new(store, options, &login.settings, true, shield)
            .map_err(Error::before_sending)?;
        attempt.ended(run_on(&attempt, show, wait, hooks, shield))
    })
}

fn run_on<S: Store>(
    attempt: &Login<'_, S>,
    show: &mut dyn FnMut(&Prompt),
    wait: Option<Duration>,
    hooks: &mut dyn Hooks,
    shield: fn(),
) -> Result<Outcome> {
    let accounts = Client::new(&attempt.plan.accounts, &attempt.options.connection(shield))?;
    attempt.try_room(hooks)?;
    let prompt = prompt(attempt, &accounts)?;
    show(&prompt);
    poll(attempt, prompt, wait, hooks)
}

/// Asks for what the user is to be shown.
fn prompt<S>(attempt: &Login<'_, S>, accounts: &Client) -> Result<Prompt> {
    let app = &attempt.plan.app;
    let secrets = device::secrets(app);
    let send = |request: &_| {
        attempt.has_sent.set(true);
        let sent = exchange::send(accounts, request, &secrets);
        attempt.driver.run(sent)
    };
    let mut reply = send(&device::request(app, &attempt.scope))?;
    if reply.as_ref().is_ok_and(device::misses_header) {
        reply = send(&device::request_without_header(app, &attempt.scope))?;
    }
    let prompt = match reply {
        Ok(response) => device::prompt(app, &response),
        Err(lost) => Err(exchange::no_reply(lost, &secrets)),
    };
    prompt.map_err(|refusal| {
        // No consent has been asked for yet.
        let refusal = Refusal {
            maybe_spent: false,
            ..refusal
        };
        refused(accounts, &attempt.plan, refusal, false)
    })
}

/// Asks politely until the user has answered.
fn poll<S: Store>(
    attempt: &Login<'_, S>,
    prompt: Prompt,
    wait: Option<Duration>,
    hooks: &mut dyn Hooks,
) -> Result<Outcome> {
    let life = Duration::from_secs(prompt.expires_in);
    let wait = wait.filter(|wait| *wait < life);
    let deadline = Instant::now() + wait.unwrap_or(life);
    let mut interval = Duration::from_secs(prompt.interval);
    let grant = DeviceGrant {
        app: attempt.plan.app.clone(),
        device_code: prompt.device_code,
    };
    let mut asked = false;
    let mut lost_before = false;
    // Why the last question had no answer, if that was not the user's.
    let mut failure = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Who cannot wait so long asks once, at the end.
        let pause = if asked { interval } else { interval.min(left) };
        if pause > left {
            return Err(failure.unwrap_or_else(|| too_late(wait.is_some())));
        }
        thread::sleep(pause);
        asked = true;
        let (polled, refusal) = match ask(attempt, &grant, hooks)? {
            Ok(outcome) => return Ok(outcome),
            Err(unanswered) => unanswered,
        };
        let is_passing = refusal.is_passing();
        let maybe_spent = refusal.maybe_spent;
        let error = attempt.refused(refusal, lost_before);
        lost_before |= maybe_spent;
        failure = match polled {
            Some(Polled::Pending) => None,
            Some(Polled::SlowDown) => {
                interval += SLOWER;
                None
            }
            Some(Polled::Denied(denial)) => return Err(denied(&denial)),
            Some(Polled::Expired) => return Err(too_late(false)),
            // What passes is asked again at the next turn, like a pending answer.
            _ if is_passing => Some(error),
            _ => return Err(error),
        };
    }
}

/// Asks once, and saves the pair; or says why there is none, and what the server says about waiting.
fn ask<S: Store>(
    attempt: &Login<'_, S>,
    grant: &DeviceGrant,
    hooks: &mut dyn Hooks,
) -> Result<Result<Outcome, (Option<Polled>, Refusal)>> {
    let polled = RefCell::new(None);
    let judge = |response: &_| match grant.polled(response) {
        Polled::Ended(reply) => *reply,
        other => {
            polled.replace(Some(other));
            Reply::Refused(not_yet())
        }
    };
    let request = grant.request(attempt.plan.api);
    let done = attempt.exchange(&request, &grant.secrets(), judge, hooks)?;
    Ok(done.map_err(|refusal| (polled.into_inner(), refusal)))
}

/// Stands for an answer that is still to come.
fn not_yet() -> Refusal {
    Refusal {
        is_answer: true,
        verdict: Verdict::Temporary,
        code: None,
        message: String::new(),
        hint: None,
        log_id: None,
        wait: None,
        is_of_one_login: false,
        is_of_dead_token: false,
        maybe_spent: false,
    }
}

/// The error for a consent that did not come: as long as `--wait` said, or while the code lived.
fn too_late(was_cut_short: bool) -> Error {
    let hint = if was_cut_short {
        Hint::fixed(
            "log in again with a longer --wait, or without it to wait as long as the code lives: feishu-refresh login",
            "请重新登录，并用 --wait 延长等待时间；不指定时等到代码失效为止：feishu-refresh login",
        )
    } else {
        Hint::fixed(
            "log in again, each code lives a few minutes: feishu-refresh login",
            "请重新登录，每个代码仅数分钟内有效：feishu-refresh login",
        )
    };
    Error::temporary("no consent came in time; nothing was changed").with_hint(hint)
}
