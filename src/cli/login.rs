//! How a person is asked for consent at a terminal.
//!
//! What is said goes to stderr: stdout is for what `-o` asks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use secrecy::SecretString;

use super::args::{Cli, LoginArguments};
use super::console::{Console, has};
use super::output::{self, Report, Sink};
use super::program::Program;
use crate::error::{Error, Hint, Result};
use crate::login::failure::{denied, too_late};
use crate::login::listener::{Browser, Listener};
use crate::login::{self, ConsentMethod, ConsentQuestion, LoggedIn, pages};
use crate::platform::programs;
use crate::platform::signals::Mask;
use crate::protocol::consent::ConsentAnswer;
use crate::protocol::device::Prompt;
use crate::refresh::Options;

/// How long a browser is waited for, unless `--wait` says it.
const WAIT: Duration = Duration::from_secs(300);

/// Gets the first pair in the way that was asked for, and says where it is.
pub(super) fn run(
    arguments: &LoginArguments,
    cli: &Cli,
    options: &Options,
    console: &mut Console<'_>,
    mask: &mut Mask,
    report: &Report,
) -> Result<()> {
    let sink = cli
        .output_given()
        .map(|output| Sink::open(output, console.env));
    let sink = sink.transpose().map_err(Error::before_sending)?;
    let login = cli.login_options(options);
    let mut program = Program::new(cli, options, mask);
    if let Some(Sink::Github(_)) = sink {
        program.masks = Some(&mut *console.stdout);
    }
    let wait = arguments.wait.unwrap_or(WAIT);
    let shield = Mask::shield_thread;
    let stderr = &mut *console.stderr;
    let result = if arguments.device {
        let mut show = |prompt: &_| show_prompt(stderr, prompt);
        login::device::run(
            options,
            &login,
            &mut show,
            arguments.wait,
            &mut program,
            shield,
        )
    } else if arguments.paste {
        let mut method = Paste {
            stdin: mem::replace(&mut console.stdin, Box::new(io::empty())),
            stderr,
            wait,
        };
        login::run(options, &login, &mut method, &mut program, shield)
    } else {
        let mut method = InBrowser {
            stderr,
            wait,
            has_browser: programs::has_browser(&|name| has(console.env, name)),
            listener: None,
            browser: None,
        };
        login::run(options, &login, &mut method, &mut program, shield)
    };
    let LoggedIn { outcome, written } = program.result(result)?;
    let failure = program.failure.take();
    if let Some(sink) = sink {
        sink.print(console.stdout, options, &outcome)?;
    }
    if !cli.is_quiet() {
        output::note_login(console.stderr, options, &outcome, &written, report);
    }
    failure.map_or(Ok(()), Err)
}

/// Shows the link, and reads the address that the browser ended on.
struct Paste<'a> {
    stdin: Box<dyn Read + Send>,
    stderr: &'a mut dyn Write,
    /// How long to wait.
    wait: Duration,
}

/// A longer line is no address of a callback.
const LONGEST_LINE: u64 = 64 << 10;

/// Who pastes rubbish so often is no person.
const MOST_TRIES: usize = 20;

impl ConsentMethod for Paste<'_> {
    fn ask(&mut self, question: &ConsentQuestion) -> Result<SecretString> {
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
        let stdin = mem::replace(&mut self.stdin, Box::new(io::empty()));
        let lines = lines_of(stdin);
        let deadline = Instant::now() + self.wait;
        for _ in 0..MOST_TRIES {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Err(too_late(self.wait)),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let line =
                line.map_err(|error| Error::config(format!("cannot read the address: {error}")))?;
            match question.pasted(&line) {
                ConsentAnswer::Code(code) => return Ok(code),
                ConsentAnswer::Denied(denial) => return Err(denied(&denial)),
                ConsentAnswer::WrongState => say(
                    "That address belongs to another login. Paste the one that this link led to:\n",
                ),
                ConsentAnswer::Other => {
                    say("There is no code in it. Paste the whole address, or only the code:\n");
                }
            }
        }
        Err(
            Error::temporary("no address was pasted; nothing was changed").with_hint(Hint::fixed(
                "log in again: feishu-refresh login",
                "请重新登录：feishu-refresh login",
            )),
        )
    }
}

/// The lines of a text that may be slow to come.
fn lines_of(text: Box<dyn Read + Send>) -> Receiver<io::Result<String>> {
    let (sender, lines) = mpsc::channel();
    // Without a thread, the text has no lines.
    let _ = thread::Builder::new().spawn(move || {
        Mask::shield_thread();
        let mut text = BufReader::new(text);
        loop {
            let mut line = String::new();
            let read = (&mut text).take(LONGEST_LINE).read_line(&mut line);
            let ended = !matches!(read, Ok(1..));
            if matches!(read, Ok(0)) || sender.send(read.map(|_| line)).is_err() || ended {
                break;
            }
        }
    });
    lines
}

/// Shows the link and the code for another device.
fn show_prompt(stderr: &mut dyn Write, prompt: &Prompt) {
    // A stderr that takes nothing is no reason to fail.
    let _ = write!(
        stderr,
        "Open this link in a browser, on any machine, and enter the code (experimental):\n\n  {}\n  {}\n\nWaiting…\n",
        prompt.page, prompt.user_code
    );
    let _ = stderr.flush();
}

/// Opens the link in a browser, and waits for it to come back.
struct InBrowser<'a> {
    stderr: &'a mut dyn Write,
    /// How long to wait.
    wait: Duration,
    /// Whether there is a browser to open.
    has_browser: bool,
    listener: Option<Listener>,
    browser: Option<Browser>,
}

impl ConsentMethod for InBrowser<'_> {
    fn prepare(&mut self, redirect_uri: &str) -> Result<()> {
        self.listener = Some(Listener::bind(redirect_uri, Mask::shield_thread)?);
        Ok(())
    }

    fn ask(&mut self, question: &ConsentQuestion) -> Result<SecretString> {
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
