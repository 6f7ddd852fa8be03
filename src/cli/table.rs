//! Aligned columns that fit into a width.

/// What lies between two columns.
const GAP: &str = "  ";
/// A column is not cut shorter than this.
const LEAST: usize = 8;

/// How a column behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Text that is always shown whole: ids, names that are typed again.
    Whole,
    /// A number, on the right.
    Number,
    /// Text that may be cut when the width is too small.
    Cut,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<(&'static str, Fit)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new<const N: usize>(heads: [(&'static str, Fit); N]) -> Self {
        Self { heads: heads.into(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.heads.len(), "a row has a cell for each column");
        self.rows.push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// The table as lines, each with its end; `empty` if it has no row. No width: nothing is cut.
    pub(crate) fn render(&self, width: Option<usize>, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let widths = self.widths(width);
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        std::iter::once(&heads).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn widths(&self, most: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| length(head)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = length(cell).max(*width);
            }
        }
        let Some(most) = most else { return widths };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let too_long =
            |widths: &[usize]| (widths.iter().sum::<usize>() + gaps).saturating_sub(most);
        // The widest of those that may be cut gives way first, letter by letter.
        for _ in 0..too_long(&widths) {
            let cut = self.heads.iter().zip(&mut widths).filter(|((_, fit), _)| *fit == Fit::Cut);
            match cut.map(|(_, width)| width).max_by_key(|width| **width) {
                Some(width) if *width > LEAST => *width -= 1,
                Some(_) | None => break,
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (((_, fit), cell), width) in self.heads.iter().zip(row).zip(widths) {
            if !line.is_empty() {
                line.push_str(GAP);
            }
            let cell = cut(cell, *width);
            let padding = " ".repeat(width.saturating_sub(length(&cell)));
            match fit {
                Fit::Number => line.extend([padding, cell]),
                Fit::Whole | Fit::Cut => line.extend([cell, padding]),
            }
        }
        format!("{}\n", line.trim_end())
    }
}

/// Places on the screen. Wide letters are counted as one; host names have none.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// The text, cut to a number of places.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The text without what a terminal would take for a command: the answer may repeat what anybody
/// wrote into it.
pub(crate) fn clean(text: &str) -> String {
    let harmless = |letter: char| match letter {
        '\n' | '\r' | '\t' => ' ',
        // The letters that turn the direction of writing around can make a text look like another.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    };
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([("NAME", Fit::Whole), ("N", Fit::Number), ("WHY", Fit::Cut)]);
        table.row(["web-1".into(), "7".into(), "disk is full again".into()]);
        table.row(["a".into(), "1000".into(), String::new()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_ends() {
        let expected = "NAME      N  WHY\nweb-1     7  disk is full again\na      1000\n";
        assert_eq!(table().render(None, ""), expected);
    }

    #[test]
    fn what_may_be_cut_is_cut_to_the_width() {
        let expected = "NAME      N  WHY\nweb-1     7  disk is fu…\na      1000\n";
        assert_eq!(table().render(Some(24), ""), expected);
        let least = table().render(Some(1), "");
        assert!(least.contains("web-1     7  disk is…"), "{least}");
    }

    #[test]
    fn an_empty_table_says_so() {
        let table = Table::new([("NAME", Fit::Whole)]);
        assert_eq!(table.render(None, "no groups"), "no groups\n");
    }

    #[test]
    fn a_terminal_is_given_no_commands() {
        assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}"), "a\u{fffd}[31mb c\u{fffd}");
    }
}
