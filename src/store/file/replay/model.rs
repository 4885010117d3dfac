//! Replay against a model: runs, kills, and unrelated programs, in every order to a depth, and at random beyond.
//!
//! [`World`] is a file, a journal, a state folder's memory, and a server that knows which token is valid. A run goes
//! through it as [`FileState`] does on a disk, around the real [`DesiredText::replay`], [`Successor::of`] and
//! [`FileState::spent`]. The server's knowledge, not the records' own, says what must hold: see
//! [`World::check_change`], [`World::check_pairs`] and the checks in [`World::answer`].
//!
//! What may be lost: a reply that no record holds; and an old copy that comes back after the journal is gone, if it is
//! older than [`HEALED`] rotations or than what we know about the login, or if there is no state folder.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "the test says how much it tried")]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};

use super::super::sections::Text;
use super::super::settle::DesiredText;
use super::super::state::FileState;
use super::*;
use crate::profile::{Origin, Overrides, View};
use crate::protocol::Api;
use crate::store::record::{self, Record};
use crate::token::Tokens;

/// A copy of the file that is at most this many rotations old heals.
const HEALED: u8 = 16;

const PROFILE: &str = "TOKEN";

/// A token from the server, or from a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Token {
    login: u8,
    number: u8,
}

impl Token {
    fn secret(self) -> SecretString {
        format!("ur-{}-{}", self.login, self.number).into()
    }

    fn print(self) -> Fingerprint {
        Fingerprint::of(&self.secret())
    }

    fn parse(text: &str) -> Self {
        let mut numbers = text.split('-').skip(1).map(|part| part.parse().unwrap());
        Token {
            login: numbers.next().unwrap(),
            number: numbers.next().unwrap(),
        }
    }

    fn of(pair: &Successor) -> Self {
        Token::parse(pair.tokens.refresh_token.as_ref().unwrap().expose_secret())
    }
}

/// What a line of a text says; none if it is empty or missing.
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let value = |line: &'t str| line.strip_prefix(key)?.strip_prefix(" = ");
    text.lines().find_map(value)
}

fn token(text: &str) -> Option<Token> {
    value(text, "refresh_token").map(Token::parse)
}

/// The access token: its login, and how often that had been refreshed.
fn access(text: &str) -> Option<Token> {
    value(text, "user_access_token").map(Token::parse)
}

/// What we must not change.
fn foreign_lines(text: &str) -> Vec<&str> {
    let ours = ["[TOKEN]", "api", "refresh_token", "user_access_token"];
    let is_foreign =
        |line: &&str| !line.is_empty() && !ours.iter().any(|key| line.starts_with(key));
    text.lines().filter(is_foreign).collect()
}

/// What is fixed for a whole walk.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The server gives a new refresh token every this many refreshes; with 0, never.
    rotates_each: u8,
    has_state_folder: bool,
    writes_in_place: bool,
    /// Where the journal is.
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Refresh,
    /// With the last given `-r`.
    Given,
    /// With an unknown `-r`.
    GivenNew,
    Login,
}

/// What a program that ignores locks does.
#[derive(Debug, Clone, Copy)]
enum Foreign {
    /// Writes back what it read some time ago.
    Restore(usize),
    /// Spends the token, and saves what it got.
    Refresh,
    /// Puts in a token of an unknown login.
    Third,
    DeleteToken,
    /// Keeps only the keys that it knows.
    DeleteList,
    DeleteFile,
    Note,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(Kind),
    /// The run continues to its next phase.
    Go,
    /// It is killed during that write.
    Tear,
    /// It is killed after everything is remembered, before the journal is gone.
    Cut,
    Kill,
    Foreign(Foreign),
    /// This many runs, undisturbed.
    Runs(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Begun,
    PutBack,
    Answered,
    Recorded,
    /// Or given up.
    Saved,
}

#[derive(Clone)]
struct Run {
    kind: Kind,
    given: Option<Token>,
    phase: Phase,
    entries: Vec<Entry>,
    reply: Option<Arc<Successor>>,
    stays: bool,
}

#[derive(Clone, Copy, Default, Hash)]
struct Login {
    /// The number of the valid token.
    newest: u8,
    refreshes: u8,
    /// The oldest token since which we know each one.
    known_since: u8,
}

type Memo = Rc<RefCell<HashMap<u64, (Option<Rc<str>>, Vec<bool>)>>>;

#[derive(Clone)]
struct World {
    rules: Rules,
    logins: Vec<Login>,
    file: Option<Rc<str>>,
    /// Each text that the file had.
    texts: BTreeSet<Rc<str>>,
    journal: Vec<Arc<Successor>>,
    /// The whole text that the journal has.
    whole: Option<Rc<str>>,
    memory: Option<Arc<Successor>>,
    aside: BTreeSet<Token>,
    run: Option<Run>,
    given: Option<Token>,
    /// The tokens of logins that a person replaced by another.
    given_up: BTreeSet<Token>,
    /// The access tokens that other programs got.
    others: BTreeSet<Token>,
    /// The tokens that we spent.
    sent: BTreeSet<Token>,
    /// The tokens that a run has read back from the file.
    seen: BTreeSet<Token>,
    /// Whether no program has removed the list of spent tokens.
    keeps_list: bool,
    trail: Vec<Step>,
    memo: Memo,
}

fn hash_pair(pair: &Successor, state: &mut impl Hasher) {
    let listed = pair.listed.as_ref();
    let access = pair.tokens.access_token.as_ref().map(Fingerprint::of);
    (pair.fingerprint(), access).hash(state);
    (pair.predecessor, pair.held, &pair.spent).hash(state);
    listed.map(ToString::to_string).hash(state);
}

fn hash_entries(entries: &[Entry], state: &mut impl Hasher) {
    for entry in entries {
        (entry.source as u8, entry.is_saved).hash(state);
        hash_pair(&entry.pair, state);
    }
}

fn desired(entries: &[Entry], given: Option<Token>) -> DesiredText<'_> {
    DesiredText {
        file: Path::new("FILE"),
        entries,
        given: given.map(|token| (PROFILE, token.print())),
        spare: 0,
    }
}

impl World {
    fn new(rules: Rules) -> Self {
        let file: Rc<str> = "[TOKEN]\nrefresh_token = ur-0-0\n".into();
        World {
            rules,
            logins: vec![Login::default()],
            texts: BTreeSet::from([Rc::clone(&file)]),
            file: Some(file),
            journal: Vec::new(),
            whole: None,
            memory: None,
            aside: BTreeSet::new(),
            run: None,
            given: Some(Token {
                login: 0,
                number: 0,
            }),
            given_up: BTreeSet::new(),
            others: BTreeSet::new(),
            sent: BTreeSet::new(),
            seen: BTreeSet::new(),
            keeps_list: true,
            trail: Vec::new(),
            memo: Memo::default(),
        }
    }

    fn must(&self, holds: bool, what: &str) {
        let tokens: Vec<_> = self.journal.iter().map(|pair| Token::of(pair)).collect();
        assert!(
            holds,
            "{what}\n{:?}\n{:?}\nfile: {:?}\njournal: {tokens:?}\nmemory: {:?}\naside: {:?}",
            self.rules,
            self.trail,
            self.file,
            self.memory.as_deref().map(Token::of),
            self.aside,
        );
    }

    fn text(&self) -> Rc<str> {
        self.file.clone().unwrap_or_default()
    }

    fn write(&mut self, text: Rc<str>) {
        self.texts.insert(Rc::clone(&text));
        self.file = Some(text);
    }

    fn is_torn(&self) -> bool {
        self.text().starts_with('\0')
    }

    // The server.

    fn lives(&self, token: Token) -> bool {
        self.logins[usize::from(token.login)].newest == token.number
    }

    fn new_login(&mut self) -> Token {
        self.logins.push(Login::default());
        Token {
            login: u8::try_from(self.logins.len() - 1).unwrap(),
            number: 0,
        }
    }

    /// The successor of this token, and the access token with it; none if it is refused.
    fn refreshed(&mut self, token: Token) -> Option<(Token, SecretString)> {
        if !self.lives(token) {
            return None;
        }
        let login = &mut self.logins[usize::from(token.login)];
        login.refreshes += 1;
        if login.refreshes.checked_rem(self.rules.rotates_each) == Some(0) {
            login.newest += 1;
        }
        let new = Token {
            number: login.newest,
            ..token
        };
        Some((new, format!("u-{}-{}", token.login, login.refreshes).into()))
    }

    // A run.

    fn begin(&mut self, kind: Kind) {
        if kind == Kind::GivenNew {
            self.given = Some(self.new_login());
        }
        self.run = Some(Run {
            kind,
            given: self
                .given
                .filter(|_| matches!(kind, Kind::Given | Kind::GivenNew)),
            phase: Phase::Begun,
            entries: Vec::new(),
            reply: None,
            stays: false,
        });
    }

    /// Continues the run; `tears` is whether it is killed during its write, `is_cut` whether it is killed after it has
    /// remembered everything.
    fn go(&mut self, tears: bool, is_cut: bool) {
        let run = self.run.take().unwrap();
        self.run = match run.phase {
            Phase::Begun => self.put_back(run, tears),
            Phase::PutBack => Some(self.answer(run)),
            Phase::Answered => Some(self.record(run)),
            Phase::Recorded => self.save(run, tears),
            Phase::Saved => {
                self.close(run, tears, is_cut);
                None
            }
        };
    }

    /// As `FileState::open` does.
    fn put_back(&mut self, mut run: Run, tears: bool) -> Option<Run> {
        if self.file.is_none() && self.journal.is_empty() && run.kind == Kind::Refresh {
            return None;
        }
        if self.is_torn() {
            self.must(self.whole.is_some(), "a torn file can be repaired");
            self.file = self.whole.clone();
        }
        let entry =
            |(pair, source): (&Arc<Successor>, Source)| Entry::new(Arc::clone(pair), source);
        let remembered = self.memory.iter().map(|pair| (pair, Source::Done));
        let journal = self.journal.iter().map(|pair| (pair, self.rules.source));
        run.entries = remembered.chain(journal).map(entry).collect();
        let before = self.text();
        self.file = Some(Rc::clone(&before));
        let fits = self.settle(&run.entries, run.given, tears)?;
        for (entry, fits) in run.entries.iter_mut().zip(fits) {
            if !fits && entry.is_open() {
                self.aside.insert(Token::of(&entry.pair));
            } else {
                entry.is_saved = true;
            }
        }
        run.entries.retain(|entry| entry.is_saved);
        self.check_pairs(&before, &run);
        self.seen.extend(token(&self.text()));
        run.phase = Phase::PutBack;
        Some(run)
    }

    /// Sends the request, and gets an answer.
    fn answer(&mut self, mut run: Run) -> Run {
        run.phase = Phase::Saved;
        if self.file.is_none() {
            return run;
        }
        let place = SectionId {
            file: Path::new("FILE"),
            profile: PROFILE,
        };
        self.settle(&run.entries, None, false);
        let text = self.text();
        let text = Text::parse(place.file, text.as_bytes()).unwrap();
        let snapshot = text.snapshot(place).unwrap();
        let given = run.given.map(Token::secret);
        let view = View::of(
            &snapshot,
            Overrides {
                app_access_token: None,
                refresh_token: given.as_ref(),
                app_id: None,
                app_secret: None,
                app_ticket: None,
                scope: None,
                api: (run.kind == Kind::Login).then_some(Api::V2),
                lark: false,
                base_url: None,
                accounts_url: None,
                token_url: None,
            },
        );
        let view = view.unwrap();
        let own = view.tokens().refresh_token.as_ref();
        let (sent, new) = if run.kind == Kind::Login {
            let new = self.new_login();
            (None, (new, format!("u-{}-0", new.login).into()))
        } else {
            let Some(sent) = view.new_token().or(own) else {
                return run;
            };
            let token = Token::parse(sent.expose_secret());
            let Some(new) = self.refreshed(token) else {
                let own = own.map(|own| Token::parse(own.expose_secret()));
                let has_later = own.is_some_and(|own| {
                    own.login == token.login && own != token && self.sent.contains(&token)
                });
                self.must(!has_later || !self.keeps_list, "a spent token is not sent");
                let is_known = |e: &Entry| {
                    let this = Token::of(&e.pair);
                    this.login == token.login && self.lives(this) && self.reaches(token, &e.pair)
                };
                self.must(
                    view.new_token().is_some() || !run.entries.iter().any(is_known),
                    "a token that is known to be spent is not sent",
                );
                return run;
            };
            let is_known = |entry: &Entry| Token::of(&entry.pair) == token;
            if view.new_token().is_some() || !run.entries.iter().any(is_known) {
                self.logins[usize::from(token.login)].known_since = token.number;
            }
            self.sent.extend((new.0 != token).then_some(token));
            (Some(sent.clone()), new)
        };
        let mut state = FileState::new(Arc::clone(&text));
        state.entries.clone_from(&run.entries);
        let origin = sent.as_ref().map_or(Origin::Login(&[]), Origin::Refresh);
        let tokens = Tokens {
            access_token: Some(new.1),
            // A server that keeps one token may leave it out.
            refresh_token: Some(new.0.secret()).filter(|_| self.rules.rotates_each > 0),
            ..Tokens::default()
        };
        let tokens = if run.kind == Kind::Login {
            Tokens {
                refresh_token: Some(new.0.secret()),
                ..tokens
            }
        } else {
            tokens
        };
        let pair = Successor::of(&view, &origin, &state.spent(&snapshot), tokens);
        if run.kind == Kind::Login || view.new_token().is_some() {
            self.given_up
                .extend(own.map(|own| Token::parse(own.expose_secret())));
        }
        run.reply = Some(Arc::new(pair));
        run.phase = Phase::Answered;
        run
    }

    /// Records what came, as the next run will read it.
    fn record(&mut self, mut run: Run) -> Run {
        let pair = run.reply.take().unwrap();
        let line = Record::Pair(Box::new((*pair).clone())).line();
        let (Record::Pair(read), _) = record::read(line.as_bytes()).records.remove(0) else {
            panic!("{line}");
        };
        self.journal.push(Arc::from(read));
        run.entries.push(Entry::new(pair, Source::Own));
        run.phase = Phase::Recorded;
        run
    }

    /// As `FileState::end_saving` does.
    fn save(&mut self, mut run: Run, tears: bool) -> Option<Run> {
        let fits = self.settle(&run.entries, None, tears)?;
        let mut own = run.entries.pop()?;
        if fits[run.entries.len()] {
            own.is_saved = true;
            run.entries.push(own);
            self.seen.extend(token(&self.text()));
        } else {
            let held = token(&self.text());
            let reaches = held.is_some_and(|held| self.reaches(held, &own.pair));
            self.must(!reaches, "a pair replaces what it came from");
            run.stays = true;
        }
        run.phase = Phase::Saved;
        Some(run)
    }

    /// As `FileState::close` does.
    fn close(&mut self, mut run: Run, tears: bool, is_cut: bool) {
        let before = self.text();
        let mut new = run.entries.clone();
        new.retain(|entry| entry.source != Source::Done);
        if !new.is_empty() && self.settle(&run.entries, None, tears).is_none() {
            return;
        }
        if !run.stays {
            run.given = None;
            self.check_pairs(&before, &run);
            if let Some(last) = new.pop().filter(|_| self.rules.has_state_folder) {
                self.memory = Some(last.pair);
            }
            if is_cut {
                return;
            }
            self.journal.clear();
            self.whole = None;
        }
        if self.text().is_empty() {
            self.file = None;
        }
    }

    /// As [`DesiredText::settle`] does; none if it is killed.
    fn settle(
        &mut self,
        entries: &[Entry],
        given: Option<Token>,
        tears: bool,
    ) -> Option<Vec<bool>> {
        for _ in 0..2 {
            let before = self.text();
            let (next, fits) = self.replay(&before, entries, given);
            let Some(next) = next else {
                return Some(fits);
            };
            self.check_change(&before, &next, entries, given);
            if self.rules.writes_in_place {
                self.whole = Some(Rc::clone(&next));
                if tears {
                    self.file = Some(format!("\0{}", &next[1..]).into());
                    return None;
                }
            }
            self.write(next);
        }
        self.must(false, "what was replayed is not replayed again");
        None
    }

    /// The real replay; and checks that the order of the records does not matter, except for those of one token.
    fn replay(
        &self,
        text: &Rc<str>,
        entries: &[Entry],
        given: Option<Token>,
    ) -> (Option<Rc<str>>, Vec<bool>) {
        let mut key = DefaultHasher::new();
        (text, given).hash(&mut key);
        hash_entries(entries, &mut key);
        let key = key.finish();
        if let Some(known) = self.memo.borrow().get(&key) {
            return known.clone();
        }
        let parsed = Text::parse(Path::new("FILE"), text.as_bytes()).unwrap();
        let new = |entries: &[Entry]| {
            let (next, fits) = desired(entries, given).replay(&parsed).unwrap();
            (next.map(|next| Rc::from(next.document.text())), fits)
        };
        let replayed: (Option<Rc<str>>, _) = new(entries);
        for first in 0..entries.len() {
            for second in first + 1..entries.len() {
                let mut other = entries.to_vec();
                other.swap(first, second);
                let print = |entry: &Entry| entry.pair.fingerprint();
                let moved = &entries[first..=second];
                let is_free =
                    |entry: &Entry| moved.iter().filter(|e| print(e) == print(entry)).count() == 1;
                let login = |entry: &Entry| Token::of(&entry.pair).login;
                let is_known = |entry: &Entry| {
                    Token::of(&entry.pair).number
                        >= self.logins[usize::from(login(entry))].known_since
                };
                let is_story = entries
                    .iter()
                    .all(|entry| login(entry) == login(&entries[0]) && is_known(entry));
                if is_story && moved.iter().all(is_free) {
                    self.must(new(&other).0 == replayed.0, "the order does not matter");
                }
            }
        }
        self.memo.borrow_mut().insert(key, replayed.clone());
        replayed
    }

    // What must hold.

    /// Whether a pair replaces this token, as far as we know.
    fn reaches(&self, token: Token, pair: &Successor) -> bool {
        let new = Token::of(pair);
        let is_old = token.login == new.login
            && (new.number.saturating_sub(HEALED)..new.number).contains(&token.number)
            && token.number >= self.logins[usize::from(new.login)].known_since;
        is_old || [pair.held, pair.predecessor].contains(&Some(token.print()))
    }

    /// Checks that our change of the file removes nothing.
    fn check_change(&self, before: &str, after: &str, entries: &[Entry], given: Option<Token>) {
        let kept = foreign_lines(before) == foreign_lines(after);
        self.must(kept, "other lines stay as they were");
        let Some(old) = token(before) else {
            return;
        };
        let new = token(after).unwrap();
        let is_later = old.login != new.login || old.number <= new.number;
        // Nobody can identify a `-r` that is in no list any more.
        let is_later = is_later || given.is_some() && !self.keeps_list;
        self.must(is_later, "no token is replaced by an older one");
        let is_older = access(before).zip(access(after)).is_some_and(|(a, b)| {
            a.login == b.login && a.number > b.number && !self.others.contains(&a)
        });
        self.must(!is_older, "no access token is replaced by an older one");
        let is_asked =
            |entry: &Entry| entry.source != Source::Done && entry.pair.held == Some(old.print());
        let may_go = old == new || !self.lives(old) || given.is_some();
        let may_go = may_go || entries.iter().any(is_asked) || self.given_up.contains(&old);
        self.must(may_go, "a valid token stays, unless another was asked for");
    }

    /// Checks that everything in the journal and the memory is in the file where it belongs, or kept.
    fn check_pairs(&self, before: &str, run: &Run) {
        let (old, new) = (token(before), token(&self.text()));
        let listed = value(before, "refresh_token_spent").unwrap_or_default();
        let given = run.given.map(Token::print);
        let is_known = |given: &Fingerprint| old.is_some() && listed.contains(&given.to_string());
        let given = given.filter(|given| !is_known(given));
        let is_closing = run.phase == Phase::Saved;
        self.must(!self.is_torn(), "no file stays torn");
        for (index, pair) in self.journal.iter().enumerate() {
            let (this, print) = (Token::of(pair), pair.fingerprint());
            let later = &self.journal[index + 1..];
            if !self.lives(this) || new == Some(this) || later.iter().any(|p| p.held == print) {
                continue;
            }
            let is_later = |token| later.iter().any(|pair| Token::of(pair) == token);
            let belongs = match old {
                None => self.rules.source == Source::Beside && !is_closing,
                Some(old) => self.reaches(old, pair) && !is_later(old),
            };
            let is_given = given == pair.predecessor && given != print && given.is_some();
            // A later one is there, or one that came from the one that was given.
            let came_from_given = run
                .given
                .zip(new)
                .is_some_and(|(given, new)| given.login == new.login && given.number < new.number);
            let is_there = |pair: &Arc<Successor>| Some(Token::of(pair)) == new;
            let is_given_up =
                given.is_some() && came_from_given && self.journal.iter().any(is_there);
            let belongs = (belongs || is_given) && !new.is_some_and(is_later) && !is_given_up;
            let is_aside = self.aside.contains(&this);
            self.must(!belongs || is_closing && is_aside, "a record is put back");
            let is_kept = is_aside || self.seen.contains(&this);
            self.must(is_kept, "a record is never dropped");
        }
        let last = self
            .journal
            .iter()
            .rev()
            .find(|pair| Some(Token::of(pair)) == new);
        if let Some(last) = last.filter(|_| !is_closing) {
            let access_token = last.tokens.access_token.as_ref().unwrap();
            let last = Token::parse(access_token.expose_secret());
            self.must(access(&self.text()) >= Some(last), "with its access token");
        }
        if let (Some(pair), Some(old), Some(new), false) = (&self.memory, old, new, is_closing) {
            let this = Token::of(pair);
            let belongs = self.lives(this) && old.login == this.login && self.reaches(old, pair);
            let is_there = new.login != this.login || new == this;
            self.must(!belongs || is_there, "an old copy heals");
        }
    }

    // All others.

    fn act(&mut self, foreign: Foreign) {
        let text = self.text();
        let new = match foreign {
            Foreign::Restore(index) => self.texts.iter().nth(index).cloned().unwrap(),
            Foreign::Refresh => {
                let (new, access) = self.refreshed(token(&text).unwrap()).unwrap();
                self.others.insert(Token::parse(access.expose_secret()));
                let text = with(&text, "refresh_token", new.secret().expose_secret());
                with(&text, "user_access_token", access.expose_secret()).into()
            }
            Foreign::Third => {
                self.given_up.extend(token(&text));
                let new = self.new_login();
                with(&text, "refresh_token", new.secret().expose_secret()).into()
            }
            Foreign::DeleteToken => {
                self.given_up.extend(token(&text));
                without(&text, "refresh_token = ").into()
            }
            Foreign::DeleteList => {
                self.keeps_list = false;
                without(&text, "refresh_token_spent = ").into()
            }
            Foreign::DeleteFile => {
                self.file = None;
                return;
            }
            Foreign::Note if text.contains("; a note") => {
                format!("{text}[OTHER]\nunknown: 1\n").into()
            }
            Foreign::Note => format!("; a note\n{text}").into(),
        };
        self.write(new);
    }

    fn step(&mut self, step: Step) {
        self.trail.push(step);
        match step {
            Step::Begin(kind) => self.begin(kind),
            Step::Go => self.go(false, false),
            Step::Tear => self.go(true, false),
            Step::Cut => self.go(false, true),
            Step::Kill => self.run = None,
            Step::Foreign(foreign) => self.act(foreign),
            Step::Runs(count) => (0..count).for_each(|_| self.run_alone()),
        }
    }

    /// An undisturbed run.
    fn run_alone(&mut self) {
        self.begin(Kind::Refresh);
        while self.run.is_some() {
            self.go(false, false);
        }
    }

    /// What can happen next.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let phase = self.run.as_ref().map(|run| run.phase);
        match phase {
            None => {
                steps.push(Step::Begin(Kind::Refresh));
                steps.extend(self.given.map(|_| Step::Begin(Kind::Given)));
                steps.push(Step::Begin(Kind::GivenNew));
                steps.push(Step::Begin(Kind::Login));
            }
            Some(phase) => {
                steps.push(Step::Go);
                let writes = matches!(phase, Phase::Begun | Phase::Recorded | Phase::Saved);
                steps.extend((self.rules.writes_in_place && writes).then_some(Step::Tear));
                steps.extend((phase == Phase::Saved).then_some(Step::Cut));
                steps.extend((phase != Phase::Begun).then_some(Step::Kill));
            }
        }
        if phase != Some(Phase::Begun) {
            steps.extend(self.foreign_steps().into_iter().map(Step::Foreign));
        }
        steps
    }

    fn foreign_steps(&self) -> Vec<Foreign> {
        let other = |(index, text): (usize, &Rc<str>)| {
            (self.file.as_ref() != Some(text)).then_some(Foreign::Restore(index))
        };
        let mut steps: Vec<_> = self.texts.iter().enumerate().filter_map(other).collect();
        steps.extend(self.file.as_ref().map(|_| Foreign::DeleteFile));
        let text = self.text();
        if !self.is_torn() {
            steps.push(Foreign::Third);
            if let Some(token) = token(&text) {
                steps.push(Foreign::DeleteToken);
                steps.extend(self.lives(token).then_some(Foreign::Refresh));
            }
            steps.extend(value(&text, "refresh_token_spent").map(|_| Foreign::DeleteList));
            steps.extend((!text.contains("[OTHER]")).then_some(Foreign::Note));
        }
        steps
    }

    /// What the future depends on.
    fn key(&self) -> u64 {
        let state = &mut DefaultHasher::new();
        (&self.file, &self.texts, &self.whole, &self.aside).hash(state);
        (
            &self.given_up,
            &self.others,
            &self.sent,
            &self.seen,
            self.keeps_list,
        )
            .hash(state);
        (&self.logins, self.given, self.journal.len()).hash(state);
        self.journal
            .iter()
            .chain(&self.memory)
            .for_each(|pair| hash_pair(pair, state));
        if let Some(run) = &self.run {
            (run.kind, run.given, run.phase, run.stays).hash(state);
            hash_entries(&run.entries, state);
            run.reply.iter().for_each(|pair| hash_pair(pair, state));
        }
        state.finish()
    }
}

/// A text with another value, as written by a program that keeps unknown keys.
fn with(text: &str, key: &str, new: &str) -> String {
    let line = format!("{key} = {new}");
    match value(text, key) {
        Some(old) => text.replace(&format!("{key} = {old}"), &line),
        None if text.contains("[TOKEN]\n") => {
            text.replace("[TOKEN]\n", &format!("[TOKEN]\n{line}\n"))
        }
        None => format!("{text}[TOKEN]\n{line}\n"),
    }
}

fn without(text: &str, line: &str) -> String {
    let kept = |other: &&str| !other.starts_with(line);
    text.split_inclusive('\n').filter(kept).collect()
}

/// Tries everything that can happen, up to this many steps, not counting a run's continuation.
fn explore(world: &World, budget: u8, known: &mut HashMap<u64, u8>) {
    let tried = known.get(&world.key());
    if tried.is_some_and(|tried| *tried >= budget) {
        return;
    }
    known.insert(world.key(), budget);
    if world.run.is_none() && budget == 0 {
        world.clone().run_alone();
    }
    for step in world.steps() {
        let cost = u8::from(!matches!(step, Step::Go));
        if let Some(rest) = budget.checked_sub(cost) {
            let mut next = world.clone();
            next.step(step);
            explore(&next, rest, known);
        }
    }
}

/// The number of events, besides a run's continuation, in the exhaustive test.
const DEPTH: u8 = 3;

/// A few that differ as much as possible.
const RULES: [Rules; 5] = [
    rules(1, true, false, Source::Beside),
    rules(1, false, true, Source::Beside),
    rules(1, true, true, Source::Elsewhere),
    rules(0, true, false, Source::Beside),
    rules(2, true, false, Source::Beside),
];

const fn rules(
    rotates_each: u8,
    has_state_folder: bool,
    writes_in_place: bool,
    source: Source,
) -> Rules {
    Rules {
        rotates_each,
        has_state_folder,
        writes_in_place,
        source,
    }
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let source = prop_oneof![Just(Source::Beside), Just(Source::Elsewhere)];
    let all = (0..3_u8, any::<bool>(), any::<bool>(), source);
    all.prop_map(|(rotates, has_state_folder, in_place, source)| {
        rules(rotates, has_state_folder, in_place, source)
    })
}

#[test]
fn all_that_can_come_is_recovered_from() {
    for rules in RULES {
        let start = std::time::Instant::now();
        let mut known = HashMap::new();
        let world = World::new(rules);
        explore(&world, DEPTH, &mut known);
        eprintln!(
            "{rules:?}: {} states, {} replays {:?}",
            known.len(),
            world.memo.borrow().len(),
            start.elapsed()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_long_walk_is_recovered_from(
        rules in any_rules(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut world = World::new(rules);
        for choice in choices {
            let mut steps = world.steps();
            if world.run.is_some() {
                steps.extend([Step::Go; 6]);
            } else {
                steps.extend([Step::Begin(Kind::Refresh); 3]);
                steps.push(Step::Runs(15));
                steps.push(Step::Runs(16));
            }
            world.step(*choice.get(&steps));
        }
        world.run = None;
        world.run_alone();
    }
}

/// What a list says leads to the token of the file, unless that is gone.
#[test]
fn a_given_token_finds_its_successor_though_its_own_was_deleted() {
    let mut world = World::new(rules(1, false, false, Source::Beside));
    let run_until_saved = [
        Step::Begin(Kind::Refresh),
        Step::Go,
        Step::Go,
        Step::Go,
        Step::Go,
    ];
    let go = |world: &mut World, steps: &[Step]| steps.iter().for_each(|step| world.step(*step));
    go(&mut world, &run_until_saved);
    go(
        &mut world,
        &[Step::Kill, Step::Foreign(Foreign::DeleteToken)],
    );
    let without = world.text();
    go(&mut world, &[Step::Foreign(Foreign::Third)]);
    go(&mut world, &run_until_saved);
    let index = world.texts.iter().position(|text| *text == without);
    let restore = Step::Foreign(Foreign::Restore(index.unwrap()));
    go(
        &mut world,
        &[Step::Kill, restore, Step::Begin(Kind::Given), Step::Go],
    );
    let successor = Token {
        login: 0,
        number: 1,
    };
    assert_eq!(token(&world.text()), Some(successor));
}
