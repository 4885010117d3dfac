//! The records of a journal, as text.
//!
//! Promises:
//! - A record is complete or recognisably not: it has its own line, after its length and its
//!   checksum. An incomplete one never hides what follows it.
//! - Each record is written in one piece ([`Record::line`]).

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::profile::{NO_PROFILE, Setting, SpentTokens, Successor, settings};
use crate::protocol::Api;
use crate::token::{self, AppToken, Fingerprint, Tokens};

/// One record. It holds tokens, so it has no `Debug`.
#[derive(Clone)]
pub(super) enum Record {
    /// A pair that a server gave.
    Pair(Box<Successor>),
    /// The whole text about to be written over the file.
    Text(String),
    /// A refresh token about to be sent.
    Sent(Fingerprint),
    /// The server's answer to it is known.
    Answered(Fingerprint),
}

/// What a journal's text holds.
#[derive(Default)]
pub(super) struct ReadRecords {
    /// The complete records, each with its line.
    pub(super) records: Vec<(Record, String)>,
    /// The incomplete lines.
    pub(super) torn: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Json {
    Pair(Box<PairJson>),
    Text(String),
    Sent(String),
    Answered(String),
}

#[derive(Serialize, Deserialize)]
struct PairJson {
    profile: String,
    api: String,
    access_token: Option<String>,
    access_token_expires_at: Option<String>,
    scope: Option<String>,
    refresh_token: Option<String>,
    refresh_token_expires_at: Option<String>,
    /// Keys with their values; not in the records of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settings: Vec<(String, String)>,
    app_access_token: Option<String>,
    app_access_token_expires_at: Option<String>,
    keeps_refresh_expiry: bool,
    predecessor: Option<String>,
    held: Option<String>,
    spent: String,
    listed: Option<String>,
}

impl Record {
    /// The record as a line. It begins with a line end, so that an unfinished line before it does not spoil it.
    pub(super) fn line(&self) -> String {
        // Strings, booleans and times always serialise.
        let json = serde_json::to_string(&self.json()).unwrap_or_default();
        let checksum = Fingerprint::of_bytes(json.as_bytes());
        format!("\n{} {checksum} {json}\n", json.len())
    }

    fn json(&self) -> Json {
        let print = |print: Fingerprint| print.to_string();
        match self {
            Record::Text(text) => Json::Text(text.clone()),
            Record::Sent(token) => Json::Sent(print(*token)),
            Record::Answered(token) => Json::Answered(print(*token)),
            Record::Pair(pair) => Json::Pair(Box::new(pair_json(pair))),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let (length, rest) = line.split_once(' ')?;
        let (checksum, json) = rest.split_once(' ')?;
        let is_whole = length.parse() == Ok(json.len())
            && Fingerprint::parse(checksum) == Some(Fingerprint::of_bytes(json.as_bytes()));
        if !is_whole {
            return None;
        }
        Some(match serde_json::from_str(json).ok()? {
            Json::Text(text) => Record::Text(text),
            Json::Sent(token) => Record::Sent(Fingerprint::parse(&token)?),
            Json::Answered(token) => Record::Answered(Fingerprint::parse(&token)?),
            Json::Pair(pair) => Record::Pair(Box::new(pair_of(*pair)?)),
        })
    }
}

fn pair_json(pair: &Successor) -> PairJson {
    let text =
        |secret: &Option<SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
    let prints = |prints: &[Fingerprint]| {
        let words: Vec<String> = prints.iter().map(ToString::to_string).collect();
        words.join(" ")
    };
    let time = |time: jiff::Timestamp| time.to_string();
    let app_token = pair.app_token.as_ref();
    PairJson {
        profile: pair.profile.clone(),
        api: pair.api.name().to_owned(),
        access_token: text(&pair.tokens.access_token),
        access_token_expires_at: pair.tokens.access_expires_at.map(time),
        scope: pair.tokens.scope.clone(),
        refresh_token: text(&pair.tokens.refresh_token),
        refresh_token_expires_at: pair.tokens.refresh_expires_at.map(time),
        settings: pair
            .settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.expose_secret().to_owned()))
            .collect(),
        app_access_token: app_token.map(|app| app.token.expose_secret().to_owned()),
        app_access_token_expires_at: app_token.and_then(|app| app.expires_at).map(time),
        keeps_refresh_expiry: pair.keeps_refresh_expiry,
        predecessor: pair.predecessor.map(|print| print.to_string()),
        held: pair.held.map(|print| print.to_string()),
        spent: prints(&pair.spent),
        listed: pair.listed.as_ref().map(ToString::to_string),
    }
}

impl PairJson {
    /// Whether it can be put into a file, as all can that a run records.
    fn fits_a_file(&self) -> bool {
        let tokens = [
            &self.access_token,
            &self.refresh_token,
            &self.app_access_token,
        ];
        let settings = self.settings.iter().map(|(_, value)| value);
        let mut tokens = tokens.into_iter().flatten().chain(settings);
        let mut texts = self.scope.iter().chain([&self.profile]);
        tokens.all(|token| token::is_plausible(token))
            && texts.all(|text| !text.contains(char::is_control))
            && self.profile != NO_PROFILE
    }
}

/// A pair; none if its fingerprints, tokens, profile or api are not valid.
fn pair_of(pair: PairJson) -> Option<Successor> {
    let print = |text: Option<String>| match text {
        None => Some(None),
        Some(text) => Fingerprint::parse(&text).map(Some),
    };
    if !pair.fits_a_file() {
        return None;
    }
    let spent = pair.spent.split_whitespace().map(Fingerprint::parse);
    let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let settings = pair.settings.into_iter().filter_map(setting);
    let app_end = time(pair.app_access_token_expires_at);
    Some(Successor {
        api: Api::named(&pair.api)?,
        profile: pair.profile,
        tokens: Tokens {
            access_token: pair.access_token.map(SecretString::from),
            access_expires_at: time(pair.access_token_expires_at),
            scope: pair.scope,
            refresh_token: pair.refresh_token.map(SecretString::from),
            refresh_expires_at: time(pair.refresh_token_expires_at),
        },
        settings: settings.collect(),
        app_token: pair.app_access_token.map(|token| AppToken {
            token: token.into(),
            expires_at: app_end,
        }),
        keeps_refresh_expiry: pair.keeps_refresh_expiry,
        predecessor: print(pair.predecessor)?,
        held: print(pair.held)?,
        spent: spent.collect::<Option<_>>()?,
        listed: pair.listed.as_deref().map(SpentTokens::parse),
    })
}

/// A setting; none if a newer version writes more of them.
fn setting((key, value): (String, String)) -> Option<Setting> {
    let key = settings::KEYS.into_iter().find(|known| *known == key)?;
    Some((key, value.into()))
}

/// Reads a journal's text. Reserved but unused space reads as NULs; comments are for people.
pub(super) fn read(bytes: &[u8]) -> ReadRecords {
    let mut read = ReadRecords::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let is_blank = line.iter().all(|byte| *byte == 0);
        if is_blank || line.starts_with(b";") {
            continue;
        }
        let text = std::str::from_utf8(line).ok();
        match text.and_then(|text| Some((Record::read(text)?, text.to_owned()))) {
            Some(record) => read.records.push(record),
            None => read.torn.push(line.to_vec()),
        }
    }
    read
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn pair() -> Record {
        let mut pair = Successor::trial("a b] = %", Api::V2);
        pair.spent = vec![Fingerprint::of_bytes(b"1"), Fingerprint::of_bytes(b"2")];
        pair.predecessor = pair.spent.last().copied();
        pair.settings = vec![(settings::KEYS[0], "cli_1".into())];
        Record::Pair(Box::new(pair))
    }

    #[test]
    fn a_pair_that_fits_no_file_is_no_record() {
        for (profile, refresh_token) in [
            ("DEFAULT", "r"),
            ("a\n[b]", "r"),
            ("a", ""),
            ("a", "r\nb = c"),
        ] {
            let mut pair = Successor::trial(profile, Api::V2);
            pair.tokens.refresh_token = Some(refresh_token.into());
            let read = read(Record::Pair(Box::new(pair)).line().as_bytes());
            assert_eq!((read.records.len(), read.torn.len()), (0, 1), "{profile:?}");
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let token = Fingerprint::of_bytes(b"t");
        let text = Record::Text("[a]\r\nb = \u{feff}c\n".to_owned());
        for record in [pair(), text, Record::Sent(token), Record::Answered(token)] {
            let line = record.line();
            assert_eq!(line.matches('\n').count(), 2, "{line:?}");
            let read = read(line.as_bytes());
            assert_eq!(read.records.len(), 1, "{line:?}");
            let (back, kept) = &read.records[0];
            assert_eq!(back.line(), line);
            assert_eq!(kept, line.trim());
            assert!(read.torn.is_empty());
        }
    }

    #[test]
    fn what_is_not_whole_is_known_and_hides_nothing() {
        let line = pair().line();
        let sent = Record::Sent(Fingerprint::of_bytes(b"t")).line();
        for cut in 2..line.trim_end().len() {
            let text = format!("; a comment\n{}{sent}\0\0\0", &line[..cut]);
            let read = read(text.as_bytes());
            assert_eq!((read.records.len(), read.torn.len()), (1, 1), "{text:?}");
        }
        // A page that never reached the disk, and a flipped bit.
        let mut bytes = line.clone().into_bytes();
        bytes[60..90].fill(0);
        assert_eq!(read(&bytes).torn.len(), 1);
        assert_eq!(
            read(line.replace("trial", "trail").as_bytes()).torn.len(),
            1
        );
        assert!(read(b"\n\0\0\n; x\n").records.is_empty());
    }
}
