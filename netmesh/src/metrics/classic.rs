//! The older text format, made of the newer one on the way out: the encoder writes OpenMetrics
//! only, and promtool, `curl` and the node exporter's text files want Prometheus 0.0.4.
//!
//! They differ in the comments: OpenMetrics names the family of a counter without its `_total`, tells
//! units and marks the end.

use std::fmt::{self, Write};

/// Passes lines on in the older format.
pub(super) struct Classic<W> {
    out: W,
    line: String,
    /// The help of a family whose type is not known yet, with its name.
    help: Option<(String, String)>,
}

impl<W: Write> Classic<W> {
    pub(super) const fn new(out: W) -> Self {
        Self {
            out,
            line: String::new(),
            help: None,
        }
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn end_of_line(&mut self) -> fmt::Result {
        let line = std::mem::take(&mut self.line);
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), help) => {
                self.help = Some((name.to_owned(), help.unwrap_or_default().to_owned()));
                Ok(())
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, help)) = self.help.take().filter(|(of, _)| of == name) {
                    writeln!(self.out, "# HELP {name}{suffix} {help}")?;
                }
                writeln!(self.out, "# TYPE {name}{suffix} {kind}")
            }
            (Some("#"), Some("UNIT" | "EOF"), ..) => Ok(()),
            _ => writeln!(self.out, "{line}"),
        }
    }
}

impl<W: Write> Write for Classic<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut parts = text.split('\n');
        self.line.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.end_of_line()?;
            self.line.push_str(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_suffix_and_the_rest_stays() {
        let open = "# HELP n_sent_bytes Bytes sent.\n# TYPE n_sent_bytes counter\n\
                    # UNIT n_sent_bytes bytes\nn_sent_bytes_total{peer=\"a # HELP b\"} 7\n\
                    # HELP n_up Is up.\n# TYPE n_up gauge\nn_up 1.0\n# EOF\n";
        let classic = "# HELP n_sent_bytes_total Bytes sent.\n# TYPE n_sent_bytes_total counter\n\
                       n_sent_bytes_total{peer=\"a # HELP b\"} 7\n\
                       # HELP n_up Is up.\n# TYPE n_up gauge\nn_up 1.0\n";
        // However it is cut.
        for size in [1, 2, 7, open.len()] {
            let mut writer = Classic::new(String::new());
            for part in open.as_bytes().chunks(size) {
                writer
                    .write_str(std::str::from_utf8(part).unwrap())
                    .unwrap();
            }
            assert_eq!(writer.into_inner(), classic, "in pieces of {size}");
        }
    }
}
