//! A rescue file that takes pairs one by one, each the moment it arrives.
//!
//! Promises:
//! - What was appended outlives its run; what was only begun is known, and left out.
//! - Each entry is a section with a pair, closed by a blank line. A journal is no copy of the file
//!   and never taken for one: its first line says what it is.

use std::io;
use std::path::Path;

use super::check_regular;
use super::lock::{Lock, busy};
use super::rescue::{Purpose, Rescue};
use crate::error::{Error, Result};
use crate::platform::files;

/// The first line.
const HEAD: &str = "; Pairs of feishu-refresh --all that are not all in the file yet: the next run puts them there.\n";

/// The last line, where a run could not save all but came to its end.
const ENDED: &str = "; That run has ended.\n";

/// What ends an entry: no value holds a blank line.
const END: &[u8] = b"\n\n";

/// A journal of this run.
#[derive(Debug)]
pub(crate) struct Journal {
    rescue: Rescue,
    /// Where the next entry goes.
    end: u64,
}

impl Lock {
    /// Makes a journal with room for `bytes`, in the first place that takes it.
    ///
    /// # Errors
    /// [`crate::Kind::Temporary`] if the disk is full, [`crate::Kind::Config`] if no place takes it.
    pub(crate) fn journal(&self, bytes: u64) -> Result<Journal> {
        let old = check_regular(&self.path, &self.file)?;
        let made = Rescue::make_anywhere(&self.path, Purpose::Rescue, bytes, None);
        let rescue = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => busy(&self.path),
            _ => Error::file("no room for new tokens of", &self.path, error),
        })?;
        // Whoever owns the file should be able to use what is left of a run that died.
        let _ = files::take_owner(&rescue.file, &old);
        Ok(Journal { rescue, end: 0 })
    }
}

impl Journal {
    /// Takes the text of one section. From now on the journal outlives its run.
    pub(crate) fn append(&mut self, section: &str) -> io::Result<()> {
        let head = if self.end == 0 { HEAD } else { "" };
        let entry = format!("{head}{}\n\n", section.trim_end());
        self.rescue.begin();
        fail_point!("before-append");
        files::write_all_at(&self.rescue.file, entry.as_bytes(), self.end)?;
        fail_point!("after-append");
        self.end += entry.len() as u64;
        Ok(())
    }

    /// Puts all of it on disk, for a journal that is to stay.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.rescue.sync(true)
    }

    /// Says that nothing is under way any more, for a journal that is to stay.
    pub(crate) fn end(&mut self) {
        if self.end > 0 {
            // Without it the next run is merely more careful in its words.
            let file = &self.rescue.file;
            let cut = file.set_len(self.end);
            let _ = cut.and_then(|()| files::write_all_at(file, ENDED.as_bytes(), self.end));
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.rescue.path
    }

    /// Takes it away: all that it holds is saved.
    pub(crate) fn remove(mut self) {
        self.rescue.supersede();
    }
}

/// What a dead run's journal holds.
pub(crate) struct Entries {
    /// The whole entries, as one text.
    pub(crate) text: String,
    /// Whether there is nothing else.
    pub(crate) is_whole: bool,
    /// Whether its run came to its end.
    pub(crate) has_ended: bool,
}

/// Reads a journal; none if this is another kind of rescue file.
pub(crate) fn entries(bytes: &[u8]) -> Option<Entries> {
    // What a file system could not reserve otherwise is full of NULs.
    let length = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let all = bytes[..length].strip_prefix(HEAD.as_bytes())?;
    let ended = all.strip_suffix(ENDED.as_bytes());
    let mut rest = ended.unwrap_or(all);
    let mut entries = Entries {
        text: String::new(),
        is_whole: true,
        has_ended: ended.is_some(),
    };
    while !rest.is_empty() {
        let end = rest.windows(END.len()).position(|bytes| bytes == END);
        let (entry, after) = rest.split_at(end.map_or(rest.len(), |end| end + END.len()));
        let whole = end.and(std::str::from_utf8(entry).ok());
        match whole.filter(|entry| entry.starts_with('[') && !entry.contains('\0')) {
            Some(entry) => entries.text.push_str(entry),
            None => entries.is_whole = false,
        }
        rest = after;
    }
    Some(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_whole_entries_are_read() {
        let entry = "[a]\nrefresh_token = x\n\n";
        let read = |text: &str| {
            let entries = entries(format!("{HEAD}{text}").as_bytes()).unwrap();
            (entries.text, entries.is_whole)
        };
        assert_eq!(read(entry), (entry.to_owned(), true));
        assert_eq!(read(&format!("{entry}\0\0\0")), (entry.to_owned(), true));
        assert_eq!(read(&format!("{entry}{ENDED}")), (entry.to_owned(), true));
        let begun = "[b]\nrefresh_token = y\n";
        for torn in [
            "[b]\nrefresh_tok",
            begun,
            "\0b]\nrefresh_token = y\n\n",
            "b]\n\n",
        ] {
            let read = read(&format!("{entry}{torn}"));
            assert_eq!(read, (entry.to_owned(), false), "{torn:?}");
        }
        // A page that never reached the disk.
        let read = read(&format!("[b]\nrefresh\0\0\0\n\n{entry}"));
        assert_eq!(read, (entry.to_owned(), false));
        assert!(entries(b"").is_none() && entries(&[0; 9]).is_none());
        assert!(entries(b"[a]\nrefresh_token = x\n\n").is_none());
    }
}
