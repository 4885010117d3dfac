//! The file that libpq looks passwords up in: `~/.pgpass`, or another of its form.

use secrecy::SecretString;

/// Looks a password up in the text of a passfile.
pub(super) fn password_in(text: &str, wanted: [&str; 4]) -> Option<SecretString> {
    text.lines().find_map(|line| {
        let fields = fields(line);
        let (password, fields) = fields.split_last()?;
        let fits = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
        let is_it = fields.len() == wanted.len() && !line.starts_with('#');
        let is_it = is_it && fields.iter().zip(wanted).all(fits);
        is_it.then(|| password.as_str().into())
    })
}

/// The fields of a passfile line: separated by colons; a backslash escapes the next character.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let char = match char {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            char => char,
        };
        if let Some(last) = fields.last_mut() {
            last.push(char);
        }
    }
    fields
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_passfile_is_read_as_libpq_reads_it() {
        let text =
            "# db:1:x:u:no\nother:1:x:u:no\ndb:1:x:u\\:v:no\ndb:*:x:u:p\\:w:x\n*:*:*:*:any\n";
        let password = |wanted| {
            let found: Option<SecretString> = password_in(text, wanted);
            found.map(|found| found.expose_secret().to_owned())
        };
        assert_eq!(password(["db", "1", "x", "u"]).unwrap(), "p:w:x");
        assert_eq!(password(["db", "1", "y", "u"]).unwrap(), "any");
        assert_eq!(password(["db", "1", "x", "u:v"]).unwrap(), "no");
    }
}
