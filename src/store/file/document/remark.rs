//! A comment line about a section, written once.

use super::scan::{Problem, is_space, lines};
use super::{Document, Splice, splice};

impl Document {
    /// The document with a comment in one section, and everything else unchanged: it replaces the first comment there
    /// that begins with `mark`, else goes directly under the header, indented like the pairs. `remark` begins with
    /// `mark` itself, and so never appears twice. No reader has an open value there that the line could continue.
    pub(crate) fn with_remark(
        &self,
        section: &str,
        mark: &str,
        remark: &str,
    ) -> Result<Self, Problem> {
        let index = self.layout.section_index.get(section);
        let index = *index.ok_or_else(|| Problem::new(1, "the section is gone"))?;
        let header = &self.layout.sections[index];
        let splice_at = match self.remark(index, mark) {
            Some(old) if self.text[old.clone()] == *remark => return Ok(self.clone()),
            Some(old) => Splice {
                at: old,
                text: remark.to_owned(),
            },
            None => {
                let first = self.layout.pairs_of(index).first();
                let indent = first.map_or("", |pair| &self.text[pair.indent.clone()]);
                Splice {
                    at: header.end..header.end,
                    text: format!("{}{indent}{remark}", self.line_end()),
                }
            }
        };
        let edited = Document::of(splice(&self.text, vec![splice_at])).ok();
        let is_one_line = !remark.contains(char::is_control) && remark.starts_with(mark);
        let is_proved = |edited: &Document| {
            let remark_is_read = edited
                .remark(index, mark)
                .is_some_and(|found| edited.text[found] == *remark);
            remark_is_read && edited.content() == self.content()
        };
        let edited = edited.filter(|edited| is_one_line && is_proved(edited));
        edited.ok_or_else(|| {
            Problem::new(
                header.line,
                "this section cannot take a comment without changing more than intended",
            )
        })
    }

    /// Where the first comment of a section with this beginning is, without surrounding white space.
    fn remark(&self, section: usize, mark: &str) -> Option<std::ops::Range<usize>> {
        let sections = &self.layout.sections;
        let (first, end) = (
            sections[section].line,
            sections.get(section + 1).map(|next| next.line),
        );
        let own = lines(&self.text)
            .skip_while(|line| line.number <= first)
            .take_while(|line| end.is_none_or(|end| line.number < end));
        own.map(|line| {
            let text = &self.text[line.text.clone()];
            let lead = text.len() - text.trim_start_matches(is_space).len();
            let bare = text.trim_matches(is_space);
            let start = line.text.start + lead;
            start..start + bare.len()
        })
        .find(|bare| self.text[bare.clone()].starts_with(mark))
    }
}
