//! The built-in transforms: which there are, and one at work on this machine.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use tarn_transform::{Budget, CATALOGUE, Fallback, Param, ParamKind, Transform};

use super::Failure;
use super::output::{Printer, table};

/// Commands about built-in transforms.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TransformCommand {
    /// List the transforms
    List,
    /// Say what a transform computes, takes and promises
    #[command(after_help = "Example:\n  tarn transform show dwt")]
    Show {
        /// Its name
        name: String,
    },
    /// Compute a transform here, without a cluster: the same code that nodes run
    #[command(after_help = "Example:\n  tarn transform run fft x.npy > spectrum.npy")]
    Run {
        /// Its name
        name: String,
        /// The input, in numpy's NPY format, one array after the other; - is standard input
        #[arg(default_value = "-", hide_default_value = true)]
        input: PathBuf,
        /// Its parameters, as a JSON object
        #[arg(long, default_value = "{}")]
        params_json: String,
    },
}

/// A transform, for programs.
#[derive(Serialize)]
struct Described {
    name: &'static str,
    summary: &'static str,
    formula: &'static str,
    inputs: &'static str,
    output: &'static str,
    accuracy: &'static str,
    params: Vec<DescribedParam>,
}

#[derive(Serialize)]
struct DescribedParam {
    name: &'static str,
    values: String,
    default: String,
    help: &'static str,
}

/// Runs a command about transforms.
pub fn run(command: TransformCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        TransformCommand::List => {
            let all: Vec<Described> = CATALOGUE.iter().map(described).collect();
            let rows = || table(&["name", "what it is"], all.iter().map(|one| vec![one.name.into(), one.summary.into()]));
            printer.value(&json(&all), rows)
        }
        TransformCommand::Show { name } => {
            let transform = tarn_transform::find(&name).map_err(|error| Failure::Usage(error.to_string()))?;
            let described = described(transform);
            printer.value(&json(&described), || text(&described))
        }
        TransformCommand::Run { name, input, params_json } => compute(&name, &input, &params_json),
    }
}

fn compute(name: &str, input: &PathBuf, params: &str) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    if input.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    }
    let output = tarn_transform::run(name, params, &bytes, &Budget::default()).map_err(|error| Failure::Usage(error.to_string()))?;
    std::io::stdout().lock().write_all(&output).context("cannot write the result")?;
    Ok(())
}

fn json(what: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(what).expect("it consists of texts and lists")
}

fn described(transform: &Transform) -> Described {
    let Transform { name, summary, formula, inputs, output, accuracy, .. } = *transform;
    Described { name, summary, formula, inputs, output, accuracy, params: transform.params.iter().map(described_param).collect() }
}

fn described_param(param: &Param) -> DescribedParam {
    DescribedParam {
        name: param.name,
        values: values(&param.kind),
        default: param.default.map_or_else(|| "required".into(), fallback),
        help: param.help,
    }
}

fn fallback(default: Fallback) -> String {
    match default {
        Fallback::Absent => "chosen by the transform".into(),
        Fallback::Integer(number) => number.to_string(),
        Fallback::Number(number) => number.to_string(),
        Fallback::Word(word) => word.into(),
    }
}

fn values(kind: &ParamKind) -> String {
    match kind {
        ParamKind::Integer { min, max } => format!("{min} to {max}"),
        ParamKind::Number { min, max } => format!("{min} to {max}"),
        ParamKind::Choice(words) => words.join(", "),
    }
}

fn text(one: &Described) -> String {
    let mut lines = vec![
        format!("{}: {}", one.name, one.summary),
        format!("formula   {}", one.formula),
        format!("takes     {}", one.inputs),
        format!("gives     {}", one.output),
        format!("accuracy  {}", one.accuracy),
    ];
    for param in &one.params {
        lines.push(format!("  {} ({}; default: {}): {}", param.name, param.values, param.default, param.help));
    }
    lines.join("\n")
}
