//! The eBPF object inside the binary, and how to break it.

use std::fs;
use std::ops::Range;

use crate::binary;

/// `EM_BPF`.
const MACHINE: u16 = 247;

/// An ELF object.
#[derive(Clone, Debug)]
pub struct Object {
    /// The file.
    pub bytes: Vec<u8>,
}

impl Object {
    /// The one that the binary holds.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn embedded() -> Self {
        let binary = fs::read(binary()).expect("the binary");
        let starts = (0..binary.len() - 64).filter(|at| binary[*at..].starts_with(b"\x7fELF"));
        for start in starts {
            let object = Self {
                bytes: binary[start..].to_vec(),
            };
            if object.number(18, 2) as u16 == MACHINE {
                let sections = object.number(0x28, 8) + object.number(0x3a, 2) * object.count();
                let bytes = object.bytes[..sections].to_vec();
                return Self { bytes };
            }
        }
        panic!("the binary holds no eBPF object");
    }

    /// Makes a program end at once with this code, whatever comes.
    ///
    /// # Panics
    /// When it has no such program.
    #[must_use]
    pub fn always(mut self, program: &str, code: i32) -> Self {
        let at = self.body(program);
        let [c0, c1, c2, c3] = code.to_le_bytes();
        // What follows must be reachable by the graph, and is not by what is known of r0.
        let instructions = [
            [0xb7, 0, 0, 0, c0, c1, c2, c3], // r0 = code
            [0x55, 0, 1, 0, c0, c1, c2, c3], // if r0 != code goto the old program
            [0x95, 0, 0, 0, 0, 0, 0, 0],     // exit
        ];
        self.bytes[at..at + 24].copy_from_slice(&instructions.concat());
        self
    }

    /// Makes a program read a register that nothing was put into: no verifier takes it.
    ///
    /// # Panics
    /// When it has no such program.
    #[must_use]
    pub fn unverifiable(mut self, program: &str) -> Self {
        let at = self.body(program);
        // r0 = r9
        self.bytes[at..at + 8].copy_from_slice(&[0xbf, 0x90, 0, 0, 0, 0, 0, 0]);
        self
    }

    /// Puts other bytes in the place of some, everywhere.
    ///
    /// # Panics
    /// When there are none, or they are of another length.
    #[must_use]
    pub fn with(mut self, old: &[u8], new: &[u8]) -> Self {
        assert_eq!(old.len(), new.len());
        let mut found = 0;
        for at in 0..=self.bytes.len() - old.len() {
            if self.bytes[at..].starts_with(old) {
                self.bytes[at..at + new.len()].copy_from_slice(new);
                found += 1;
            }
        }
        assert!(found > 0, "{}", String::from_utf8_lossy(old));
        self
    }

    /// Where the work of a program begins: it may be no more than a call.
    fn body(&self, program: &str) -> usize {
        const CALL: u8 = 0x85;
        let at = self.function(program);
        if self.bytes[at] != CALL {
            return at;
        }
        // Relative to its section, less one.
        let target = self.number(at + 4, 4) + 1;
        self.contents(self.named(".text")).start + 8 * target
    }

    /// The section of a name.
    fn named(&self, name: &str) -> usize {
        let names = self.contents(self.number(0x3e, 2)).start;
        let is_it = |n: &usize| {
            let text = &self.bytes[names + self.number(self.section(*n), 4)..];
            text.starts_with(name.as_bytes()) && text[name.len()] == 0
        };
        (0..self.count()).find(is_it).expect("the section")
    }

    /// Where a function begins.
    fn function(&self, name: &str) -> usize {
        const SYMBOLS: usize = 2;
        let table = (0..self.count())
            .find(|n| self.number(self.section(*n) + 4, 4) == SYMBOLS)
            .expect("a table of symbols");
        let strings = self
            .contents(self.number(self.section(table) + 0x28, 4))
            .start;
        for symbol in self.contents(table).step_by(24) {
            let text = &self.bytes[strings + self.number(symbol, 4)..];
            if text.starts_with(name.as_bytes()) && text[name.len()] == 0 {
                let section = self.number(symbol + 6, 2);
                return self.contents(section).start + self.number(symbol + 8, 8);
            }
        }
        panic!("no function {name}");
    }

    fn count(&self) -> usize {
        self.number(0x3c, 2)
    }

    /// Where the header of a section is.
    fn section(&self, n: usize) -> usize {
        self.number(0x28, 8) + n * self.number(0x3a, 2)
    }

    fn contents(&self, section: usize) -> Range<usize> {
        let header = self.section(section);
        let start = self.number(header + 0x18, 8);
        start..start + self.number(header + 0x20, 8)
    }

    fn number(&self, at: usize, bytes: usize) -> usize {
        let bytes = self.bytes[at..at + bytes].iter().rev();
        bytes.fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }
}
