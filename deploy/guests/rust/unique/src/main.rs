//! A program: prints its input's lines sorted and without repeats. Needs no grant: an ordered set has no seed.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, Write as _};

fn main() -> io::Result<()> {
    let lines: BTreeSet<String> = io::stdin().lock().lines().collect::<io::Result<_>>()?;
    let mut output = io::stdout().lock();
    for line in lines {
        writeln!(output, "{line}")?;
    }
    output.flush()
}
