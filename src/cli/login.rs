//! How a person is asked for consent at a terminal.
//!
//! What is said goes to stderr: stdout is for what `-o` asks.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use secrecy::SecretString;

use super::signals::Mask;
use crate::error::{Error, Hint, Result};
use crate::login::listener::{Browser, Listener};
use crate::login::{Question, Way, denied, pages};
use crate::protocol::consent::Answer;
use crate::protocol::device::Prompt;

/// Shows the link, and reads the address that the browser ended on.
pub(super) struct Paste<'a> {
    pub(super) stdin: &'a mut dyn Read,
    pub(super) stderr: &'a mut dyn Write,
}

/// A longer line is no address of a callback.
const LONGEST_LINE: u64 = 64 << 10;

/// Who pastes rubbish so often is no person.
const MOST_TRIES: usize = 20;

impl Way for Paste<'_> {
    fn ask(&mut self, question: &Question) -> Result<SecretString> {
        let mut say = |text: &str| {
            // A stderr that takes nothing is no reason to fail.
            let _ = self.stderr.write_all(text.as_bytes());
            let _ = self.stderr.flush();
        };
        say(&format!(
            "Open this link in a browser, on any machine, and consent:\n\n  {}\n\n\
             The browser then ends on a page that may not load. Paste its address here:\n",
            question.page
        ));
        let mut lines = BufReader::new(&mut *self.stdin);
        for _ in 0..MOST_TRIES {
            let mut line = String::new();
            let read = (&mut lines).take(LONGEST_LINE).read_line(&mut line);
            read.map_err(|error| Error::config(format!("cannot read the address: {error}")))?;
            if line.is_empty() {
                break;
            }
            match question.pasted(&line) {
                Answer::Code(code) => return Ok(code),
                Answer::Denied(word) => return Err(denied(&word)),
                Answer::WrongState => say(
                    "That address belongs to another login. Paste the one that this link led to:\n",
                ),
                Answer::Other => {
                    say("There is no code in it. Paste the whole address, or the code alone:\n");
                }
            }
        }
        Err(
            Error::temporary("no address was pasted; nothing was changed").with_hint(Hint::fixed(
                "run feishu-refresh login --paste again",
                "请重新运行 feishu-refresh login --paste",
            )),
        )
    }
}

/// Shows the link and the code for another device.
pub(super) fn show_prompt(stderr: &mut dyn Write, prompt: &Prompt) {
    // A stderr that takes nothing is no reason to fail.
    let _ = write!(
        stderr,
        "Open this link in a browser, on any machine, and enter the code (experimental):\n\n  {}\n  {}\n\nWaiting…\n",
        prompt.page, prompt.user_code
    );
    let _ = stderr.flush();
}

/// Opens the link in a browser, and waits for it to come back.
pub(super) struct InBrowser<'a> {
    pub(super) stderr: &'a mut dyn Write,
    /// How long to wait.
    pub(super) wait: Duration,
    /// Whether there is a browser to open.
    pub(super) has_browser: bool,
    pub(super) listener: Option<Listener>,
    pub(super) browser: Option<Browser>,
}

impl Way for InBrowser<'_> {
    fn prepare(&mut self, redirect_uri: &str) -> Result<()> {
        self.listener = Some(Listener::bind(redirect_uri, Mask::shield_thread)?);
        Ok(())
    }

    fn ask(&mut self, question: &Question) -> Result<SecretString> {
        let opened = self.has_browser && open::that_detached(&question.page).is_ok();
        let text = if opened {
            "A browser opens. If it does not, open this link on this machine"
        } else {
            "Open this link in a browser on this machine"
        };
        // A stderr that takes nothing is no reason to fail.
        let _ = write!(
            self.stderr,
            "{text}, and consent:\n\n  {}\n\nOn another machine, use --paste. Waiting…\n",
            question.page
        );
        let _ = self.stderr.flush();
        let listener = self.listener.take();
        let listener =
            listener.ok_or_else(|| Error::temporary("nothing listens for the browser"))?;
        let (code, browser) = listener.wait(question, self.wait)?;
        self.browser = Some(browser);
        Ok(code)
    }

    fn tell(&mut self, is_saved: bool) {
        if let Some(browser) = self.browser.take() {
            browser.show(if is_saved {
                &pages::SAVED
            } else {
                &pages::FAILED
            });
        }
    }
}
