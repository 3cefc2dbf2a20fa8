//! `tarn dev` and the command line beside it.

use std::ffi::OsStr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::scene::{LIMIT, command};

/// `tarn dev` in a folder of its own.
pub struct Dev {
    process: Child,
    pub address: String,
    pub dir: TempDir,
}

impl Dev {
    pub fn start() -> Dev {
        Dev::start_with(&[])
    }

    /// With these variables in its environment.
    pub fn start_with(variables: &[(&str, &OsStr)]) -> Dev {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("dev");
        let process = command(dir.path())
            .args(["dev", "--bind", "127.0.0.1:0", "--https-bind", "127.0.0.1:0", "--ops-bind", "127.0.0.1:0", "--dir"])
            .arg(&home)
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut dev = Dev { process, address: String::new(), dir };
        let end = Instant::now() + LIMIT;
        while dev.address.is_empty() {
            assert!(dev.process.try_wait().unwrap().is_none() && Instant::now() < end, "the node does not start");
            if let Ok(bytes) = std::fs::read(home.join("addresses.json")) {
                let addresses: Value = serde_json::from_slice(&bytes).unwrap();
                dev.address = addresses["api"].as_str().unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        dev
    }

    pub fn command(&self) -> Command {
        let user = self.dir.path().join("dev/user");
        let mut command = command(self.dir.path());
        command
            .env("TARN_ADDRESS", &self.address)
            .env("TARN_CACERT", user.join("ca.pem"))
            .env("TARN_CERT", user.join("admin.pem"))
            .env("TARN_KEY", user.join("admin.key"));
        command
    }

    pub fn tarn(&self, line: &str) -> Output {
        self.command().args(line.split(' ')).current_dir(self.dir.path()).output().unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
    }
}

/// The one JSON object that a failure leaves on standard error, and its exit code.
#[track_caller]
pub fn failure(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    let error: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = output.status.code().unwrap();
    assert_eq!(error["error"]["exit_code"], code);
    assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    (code, error["error"].clone())
}
