//! What is looked at, and what keys do about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::filter::Filter;
use super::table::{Sort, Tab};

/// The shortest and longest interval, in seconds.
pub(super) const INTERVALS: std::ops::RangeInclusive<u64> = 1..=3600;

/// What is looked at.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) tab: Tab,
    sorts: [Sort; Tab::ALL.len()],
    pub(super) filter: Filter,
    /// The filter as it was typed.
    pub(super) typed: String,
    /// It is being typed now.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// The first line that is shown.
    pub(super) top: usize,
    /// Lines there is room for, known once something was drawn.
    pub(super) room: usize,
    /// Seconds from one reading to the next.
    pub(super) interval: u64,
    pub(super) quit: bool,
}

impl View {
    pub(super) fn new(interval: u64) -> Self {
        Self {
            tab: Tab::default(),
            sorts: Tab::ALL.map(Tab::first_sort),
            filter: Filter::All,
            typed: String::new(),
            typing: false,
            paused: false,
            help: false,
            top: 0,
            room: 1,
            interval,
            quit: false,
        }
    }

    /// What the table in view is sorted by.
    pub(super) fn sort(&self) -> Sort {
        self.sorts[self.tab as usize]
    }

    /// Keeps the view on lines that are there.
    pub(super) fn settle(&mut self, passed: usize, room: usize) {
        self.room = room.max(1);
        self.top = self.top.min(passed.saturating_sub(self.room));
    }

    /// Does what a key asks for.
    pub(super) fn key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            // Raw mode makes a key of what was a signal.
            self.quit |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        if self.typing {
            return self.type_on(key.code);
        }
        if self.help {
            self.help = false;
            self.quit |= key.code == KeyCode::Char('q');
            return;
        }
        match key.code {
            KeyCode::Char('q') => self.quit = true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.refilter(String::new()),
            KeyCode::Char(digit @ '1'..='4') => self.show(digit as usize - '1' as usize),
            KeyCode::Tab | KeyCode::Right => self.show(self.tab as usize + 1),
            KeyCode::BackTab | KeyCode::Left => self.show(self.tab as usize + Tab::ALL.len() - 1),
            KeyCode::Char('s' | '>') => self.sort_by(1),
            KeyCode::Char('S' | '<') => self.sort_by(self.tab.columns().len()),
            KeyCode::Char('r') => {
                let sort = &mut self.sorts[self.tab as usize];
                sort.rising = !sort.rising;
            }
            KeyCode::Char('+') => self.interval = (self.interval + 1).min(*INTERVALS.end()),
            KeyCode::Char('-') => self.interval = (self.interval - 1).max(*INTERVALS.start()),
            KeyCode::Down | KeyCode::Char('j') => self.top = self.top.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown => self.top = self.top.saturating_add(self.room),
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.room),
            KeyCode::Home | KeyCode::Char('g') => self.top = 0,
            _ => {}
        }
    }

    /// The next letter of a filter; lines are left out while it is typed.
    fn type_on(&mut self, code: KeyCode) {
        let mut typed = self.typed.clone();
        match code {
            KeyCode::Enter => {
                self.typing = false;
                return;
            }
            KeyCode::Esc => {
                self.typing = false;
                typed.clear();
            }
            KeyCode::Backspace => {
                typed.pop();
            }
            KeyCode::Char(letter) if typed.len() < 64 => typed.push(letter),
            _ => return,
        }
        self.refilter(typed);
    }

    fn refilter(&mut self, typed: String) {
        self.filter = Filter::parse(&typed);
        self.typed = typed;
        self.top = 0;
    }

    fn show(&mut self, tab: usize) {
        self.tab = Tab::ALL[tab % Tab::ALL.len()];
        self.top = 0;
    }

    /// Sorts by the column so many further on, names being one of them; figures fall at first.
    fn sort_by(&mut self, on: usize) {
        let columns = self.tab.columns().len() + 1;
        let sort = &mut self.sorts[self.tab as usize];
        let next = (sort.column.map_or(0, |column| column + 1) + on) % columns;
        sort.column = next.checked_sub(1);
        sort.rising = sort.column.is_none();
        self.top = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, keys: &str) {
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\u{8}' => KeyCode::Backspace,
                '\u{1b}' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            view.key(code.into());
        }
    }

    #[test]
    fn q_and_control_c_quit_unless_q_is_a_letter_of_a_filter() {
        let mut view = View::new(1);
        press(&mut view, "/q");
        assert!(!view.quit);
        assert_eq!(view.typed, "q");
        view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(view.quit);
        for keys in ["q", "?q", "/x\nq"] {
            let mut view = View::new(1);
            press(&mut view, keys);
            assert!(view.quit, "{keys}");
        }
    }

    #[test]
    fn a_filter_acts_while_it_is_typed_and_is_taken_back() {
        let mut view = View::new(1);
        press(&mut view, "/10.0.0.0/8x\u{8}");
        assert_eq!(view.filter, Filter::parse("10.0.0.0/8"));
        press(&mut view, "\n2");
        assert_eq!((view.tab, view.typing), (Tab::Ports, false));
        assert_eq!(view.typed, "10.0.0.0/8");
        press(&mut view, "\u{1b}");
        assert_eq!((&view.filter, view.typed.as_str()), (&Filter::All, ""));
    }

    #[test]
    fn each_table_keeps_its_order() {
        let mut view = View::new(1);
        press(&mut view, "s");
        assert_eq!(view.sort().column, Some(2));
        press(&mut view, "\t");
        assert_eq!((view.tab, view.sort().column), (Tab::Ports, None));
        press(&mut view, "S");
        assert_eq!(view.sort().column, Some(7));
        press(&mut view, "sr");
        let names = Sort {
            column: None,
            rising: false,
        };
        assert_eq!(view.sort(), names);
        press(&mut view, "1");
        assert_eq!(view.sort().column, Some(2));
    }

    #[test]
    fn nobody_scrolls_past_the_end() {
        let mut view = View::new(1);
        view.settle(30, 10);
        press(&mut view, "jjk");
        assert_eq!(view.top, 1);
        for _ in 0..9 {
            view.key(KeyCode::PageDown.into());
            view.settle(30, 10);
        }
        assert_eq!(view.top, 20);
        view.settle(3, 10);
        assert_eq!(view.top, 0);
    }

    #[test]
    fn the_interval_has_ends() {
        let mut view = View::new(1);
        press(&mut view, "--+");
        assert_eq!(view.interval, 2);
        let mut view = View::new(3600);
        press(&mut view, "+");
        assert_eq!(view.interval, 3600);
    }
}
