//! How a person is asked for consent at a terminal.
//!
//! What is said goes to stderr: stdout is for what `-o` asks.

use std::io::{BufRead, BufReader, Read, Write};

use secrecy::SecretString;

use crate::error::{Error, Hint, Kind, Result};
use crate::login::{Question, Way};
use crate::protocol::consent::Answer;
use crate::text::{printable, shortened};

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

/// The error for a consent that was refused.
fn denied(word: &str) -> Error {
    let word = shortened(&printable(word), 80);
    let message = format!("the consent was refused ({word}); nothing was changed");
    Error::new(Kind::Reauthorize, message).with_hint(Hint::fixed(
        "log in again once the user agrees",
        "请在用户同意后重新登录",
    ))
}
