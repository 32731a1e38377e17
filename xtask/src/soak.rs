//! The soak: the test of that name for as long as it is told, with its output on the terminal.

use anyhow::{Context, bail};

use crate::{python, shell};

const MINUTES: u64 = 10;

/// Reads the flags of `cargo xtask soak` and runs it.
pub fn run_with(arguments: &[&str]) -> anyhow::Result<()> {
    let (mut minutes, mut seed) = (MINUTES, None);
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { bail!("{} wants a number", pair[0]) };
        let value = value.parse().with_context(|| format!("'{value}' is not a whole number"))?;
        match *name {
            "--minutes" => minutes = value,
            "--seed" => seed = Some(value),
            _ => bail!("'{name}' is neither --minutes nor --seed"),
        }
    }
    run(minutes * 60, seed)
}

/// Runs it. The seed decides what the store does when, not how the threads of server and clients take turns.
pub fn run(seconds: u64, seed: Option<u64>) -> anyhow::Result<()> {
    let mut soak = shell::cargo();
    soak.args(["test", "--workspace", "--quiet", "--test", "soak", "--", "--nocapture"]);
    soak.env("WEIR_TEST_PYTHON", python::ensure()?).env("WEIR_SOAK_SECONDS", seconds.to_string());
    soak.envs(seed.map(|seed| ("WEIR_SOAK_SEED", seed.to_string())));
    shell::run(&mut soak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_flags_are_refused_before_anything_runs() {
        for wrong in [&["--minutes"][..], &["--minutes", "ten"], &["--hours", "1"]] {
            assert!(run_with(wrong).is_err(), "{wrong:?}");
        }
    }
}
