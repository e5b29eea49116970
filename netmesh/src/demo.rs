//! placeholder
use std::io::Write;
/// Options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// keep
    pub keep: bool,
    /// clean
    pub clean: bool,
    /// json
    pub json: bool,
}
/// run
pub fn run(_options: Options, _out: &mut impl Write) -> anyhow::Result<bool> {
    Ok(true)
}
