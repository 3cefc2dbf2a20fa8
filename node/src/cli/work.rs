//! What a submitted task runs: the flags that name an artifact, its limits, and what it may reach.

use anyhow::Context as _;
use tarn_client::{Client, Task, proto};

use super::Failure;
use super::connect::parse_bytes;
use super::kernel::KernelArgs;
use super::placement::PlacementArgs;

/// What an executor runs.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What executors run", groups = [clap::ArgGroup::new("what").multiple(true), clap::ArgGroup::new("program").multiple(true), clap::ArgGroup::new("device").multiple(true)])]
pub struct WorkArgs {
    /// Run a WASM module or component: a .wasm or .wat file, which is put first, or an artifact's address
    #[arg(long, value_name = "FILE|ADDRESS", groups = ["what", "program"])]
    wasm: Option<String>,
    /// Run a process: a program for the nodes' machines or a script that begins with #!, as a file, which is put first, or an
    /// artifact's address
    #[arg(long, value_name = "FILE|ADDRESS", groups = ["what", "program"])]
    native: Option<String>,
    /// Run a built-in transform; `tarn transform list` names them. The payload is its input, in numpy's NPY format
    #[arg(long, value_name = "NAME", group = "what")]
    transform: Option<String>,
    /// Parameters of the transform, as a JSON object
    #[arg(long, value_name = "JSON", requires = "transform")]
    params_json: Option<String>,
    /// Compute the transform on a CUDA device, and not on a processor
    #[arg(long, requires = "transform", group = "device")]
    on_device: bool,
    /// Run the WASM module in a micro-VM: behind a second wall
    #[arg(long, requires = "wasm")]
    microvm: bool,
    /// Arguments of the program, one each
    #[arg(long = "arg", value_name = "TEXT", requires = "program", conflicts_with = "export", allow_hyphen_values = true)]
    args: Vec<String>,
    /// A variable of the program's environment. Nothing is inherited from the node
    #[arg(
        long = "env",
        value_name = "NAME=VALUE",
        requires = "program",
        conflicts_with = "export",
        value_parser = parse_variable
    )]
    env: Vec<(String, String)>,
    /// Call this exported function of the WASM module instead of running a command
    #[arg(long, requires = "wasm")]
    export: Option<String>,
    /// Parameters of the exported function
    #[arg(long = "param", requires = "export", allow_hyphen_values = true)]
    params: Vec<String>,
    /// Memory, such as 128Mi; 0 stands for 64Mi
    #[arg(long, requires = "what", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Let it reach something: clock, random, log, progress, scratch=SIZE, http=ORIGIN, call=ADDRESS, context=NAME to read it and
    /// context=NAME:rw to write it too, or for a process network
    #[arg(long = "grant", value_name = "NAME[=VALUE]", requires = "what")]
    grants: Vec<String>,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
}

impl WorkArgs {
    /// Adds what is to be run to `task`, having put it if it is a file.
    pub async fn describe(&self, mut task: Task, client: &Client) -> Result<Task, Failure> {
        let placement = self.placement.describe();
        self.check(placement.is_some())?;
        if let Some(module) = &self.wasm {
            let wasm = self.wasm(artifact(module, client).await?);
            task = if self.microvm { task.microvm(wasm) } else { task.wasm(wasm) };
        }
        if let Some(program) = &self.native {
            task = task.native(self.native(artifact(program, client).await?));
        }
        if let Some(name) = &self.transform {
            task = task.transform(self.transform(name), self.on_device);
        }
        if let Some(source) = &self.kernel.cuda {
            task = task.cuda(self.kernel.describe(artifact(source, client).await?)?);
        }
        if let Some(placement) = placement {
            task = task.placed(placement);
        }
        match grants(&self.grants)? {
            Some(grants) => Ok(task.grants(grants)),
            None => Ok(task),
        }
    }

    /// Refuses what contradicts itself before anything is put.
    fn check(&self, routed: bool) -> Result<(), Failure> {
        let given = [&self.wasm, &self.native, &self.transform, &self.kernel.cuda];
        let message = match given.into_iter().flatten().count() {
            0 if routed => "the router chooses between runtimes: say what is to run with --wasm, --native, --transform or --cuda",
            2.. if !routed => "name one thing to run, or let the router choose among them with --auto or --runtimes",
            1 if self.kernel.cuda.is_some() && self.memory.is_some() => {
                "--memory is main memory, which a kernel does not use: --device-memory says how much of a device"
            }
            _ if routed && self.microvm => {
                "--microvm names the runtime: leave it out, or ask for --isolation machine and let the router choose"
            }
            _ if routed && self.on_device => "--on-device names the runtime: leave it out, or say --runtimes cuda,native",
            _ => return Ok(()),
        };
        Err(Failure::Usage(message.into()))
    }

    fn wasm(&self, artifact: String) -> proto::WasmSpec {
        proto::WasmSpec {
            artifact,
            args: self.args.clone(),
            env: self.env.iter().cloned().collect(),
            export: self.export.clone().unwrap_or_default(),
            params: self.params.clone(),
            memory_bytes: self.memory.unwrap_or(0),
            ..Default::default()
        }
    }

    fn transform(&self, name: &str) -> proto::TransformSpec {
        proto::TransformSpec {
            name: name.to_owned(),
            params: self.params_json.clone().unwrap_or_default(),
            memory_bytes: self.memory.unwrap_or(0),
            device: self.kernel.share(),
            ..Default::default()
        }
    }

    fn native(&self, artifact: String) -> proto::NativeSpec {
        proto::NativeSpec {
            artifact,
            args: self.args.clone(),
            env: self.env.iter().cloned().collect(),
            memory_bytes: self.memory.unwrap_or(0),
            ..Default::default()
        }
    }
}

/// The address of an artifact, put first if it is a file.
async fn artifact(name: &str, client: &Client) -> Result<String, Failure> {
    if name.starts_with("blake3:") {
        return Ok(name.to_owned());
    }
    let bytes = std::fs::read(name).with_context(|| format!("cannot read {name}"))?;
    Ok(client.put_artifact(bytes).await?)
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// The grants that the flags name; `None` if there are none.
fn grants(given: &[String]) -> Result<Option<proto::Grants>, Failure> {
    if given.is_empty() {
        return Ok(None);
    }
    let mut grants = proto::Grants::default();
    for text in given {
        grant(&mut grants, text).map_err(|why| Failure::Usage(format!("--grant {text}: {why}")))?;
    }
    Ok(Some(grants))
}

fn grant(grants: &mut proto::Grants, text: &str) -> Result<(), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("clock", None) => grants.clock = true,
        ("random", None) => grants.random = true,
        ("log", None) => grants.log = true,
        ("progress", None) => grants.progress = true,
        ("network", None) => grants.network = true,
        ("scratch", Some(size)) => grants.scratch_bytes = parse_bytes(size)?,
        ("http", Some(origin)) => grants.http.push(origin.to_owned()),
        ("call", Some(address)) => grants.calls.push(address.to_owned()),
        ("context", Some(name)) => {
            if grants.context.is_some() {
                return Err("a task has one context at most".into());
            }
            let (name, write) = name.strip_suffix(":rw").map_or((name, false), |name| (name, true));
            grants.context = Some(proto::ContextGrant { name: name.to_owned(), write });
        }
        ("context", None) => return Err("say which, such as context=memory or context=memory:rw".into()),
        ("scratch", None) => return Err("say how much, such as scratch=16Mi".into()),
        ("http", None) => return Err("say where to, such as http=https://api.example.com".into()),
        ("call", None) => return Err("say what, by its address, such as call=blake3:…".into()),
        ("clock" | "random" | "log" | "progress" | "network", Some(_)) => return Err("it takes no value".into()),
        _ => return Err("there are clock, random, log, progress, scratch, http, call, context and network".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_by_name() {
        let given = ["clock", "scratch=2Mi", "http=https://a.example", "http=http://b.example:8080"];
        let read = grants(&given.map(str::to_owned)).unwrap().unwrap();
        assert!(read.clock && !read.random && !read.network);
        assert_eq!(read.scratch_bytes, 2 << 20);
        assert_eq!(read.http, ["https://a.example", "http://b.example:8080"]);
        assert_eq!(grants(&[]).unwrap(), None);
        let context = |text: &str| grants(&[text.to_owned()]).unwrap().unwrap().context.unwrap();
        assert_eq!(context("context=memory"), proto::ContextGrant { name: "memory".into(), write: false });
        assert_eq!(context("context=memory:rw"), proto::ContextGrant { name: "memory".into(), write: true });
        assert!(grants(&["context=a", "context=b"].map(str::to_owned)).is_err());
    }

    #[test]
    fn one_thing_is_run_unless_the_router_chooses() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            work: WorkArgs,
        }
        let check = |line: &str| {
            let line = Line::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
            line.work.check(line.work.placement.describe().is_some())
        };
        for good in ["x --wasm m", "x --wasm m --native p --auto", "x --transform t --cuda k --kernel f --runtimes cuda"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "x --auto",
            "x --wasm m --native p",
            "x --wasm m --microvm --auto",
            "x --transform t --on-device --isolation process",
            "x --cuda k --kernel f --memory 1Mi",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_grants_are_told() {
        for bad in ["sky", "clock=now", "context", "scratch", "scratch=much", "http", "call", "", "=x"] {
            assert!(grants(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_have_a_name() {
        assert_eq!(parse_variable("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert!(parse_variable("=x").is_err() && parse_variable("x").is_err());
    }
}
