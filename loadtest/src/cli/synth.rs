//! The `synth` subcommand.

use std::{fs::File, io, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::workload::{synth, trace};

#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// Output file (default: standard output)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seed; the same seed yields the same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Duration of the trace, in seconds
    #[arg(long, default_value = "3500", value_parser = super::seconds)]
    duration: Duration,
    /// Mean requests per second
    #[arg(long, default_value_t = synth::RATE_RPS)]
    rate: f64,
}

pub(crate) fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let workload = synth::generate(args.seed, args.duration, args.rate);
    match &args.out {
        None => trace::write(&workload, io::BufWriter::new(io::stdout().lock()))?,
        Some(path) => {
            let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
            trace::write(&workload, io::BufWriter::new(file))?;
            let s = workload.summary();
            println!(
                "{}: {} requests in {:.0} s with a mean of {:.0} prompt and {:.0} output tokens",
                path.display(),
                s.requests,
                s.duration_s,
                s.prompt_mean,
                s.output_mean
            );
        }
    }
    Ok(())
}
