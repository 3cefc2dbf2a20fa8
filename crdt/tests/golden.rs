//! Golden scripts: what clusters do, as text, and below each line what comes of it. `tests/golden/README.md` explains the language.
//!
//! With `TARN_UPDATE_GOLDEN=1` the expected part is rewritten; the diff is then what a reviewer judges.

mod support;

use std::fs;
use std::path::Path;

use support::forge::{Forger, History};
use support::world::{LAZY, TINY, World};
use tarn_crdt::{Reason, Scope, Shared, Version, Write};

#[test]
fn every_script_gives_what_it_says() {
    // Asked now and not when this was built: a target folder outlives a clone.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let folder = fs::read_dir(Path::new(&package).join("tests/golden")).expect("the folder of scripts exists");
    let mut scripts: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    scripts.sort();
    assert!(!scripts.is_empty(), "there are golden scripts");
    let update = std::env::var_os("TARN_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in scripts {
        let expected = fs::read_to_string(&path).expect("a script can be read");
        let actual = run(&path, &expected);
        if update {
            fs::write(&path, &actual).expect("a script can be written");
        } else if actual != expected {
            wrong.push(format!("{}:\n{}", path.display(), first_difference(&expected, &actual)));
        }
    }
    assert!(wrong.is_empty(), "golden scripts differ (TARN_UPDATE_GOLDEN=1 accepts):\n{}", wrong.join("\n"));
}

/// Runs a script and gives it back with what came of it.
fn run(path: &Path, script: &str) -> String {
    assert!(script.starts_with("# "), "{} begins with prose that says what it shows", path.display());
    let mut runner = Runner { world: World::found(LAZY) };
    let mut out = String::new();
    for (number, line) in script.lines().enumerate().filter(|(_, line)| !line.starts_with("  ")) {
        out.push_str(&format!("{line}\n"));
        let at = format!("{}:{}", path.display(), number + 1);
        match line.strip_prefix("> ") {
            Some(input) => runner.run(&at, input).iter().for_each(|output| out.push_str(&format!("  {output}\n"))),
            None => assert!(line.is_empty() || line.starts_with('#'), "{at}: what is {line:?}?"),
        }
    }
    out
}

fn first_difference(expected: &str, actual: &str) -> String {
    match expected.lines().zip(actual.lines()).enumerate().find(|(_, (e, a))| e != a) {
        Some((number, (e, a))) => format!("  line {}\n    expected {e}\n    got      {a}", number + 1),
        None => format!("  {} lines expected, {} given", expected.lines().count(), actual.lines().count()),
    }
}

struct Runner {
    world: World,
}

impl Runner {
    fn run(&mut self, at: &str, input: &str) -> Vec<String> {
        let words: Vec<&str> = input.split(' ').collect();
        let node = |name: &str| match name.as_bytes() {
            [letter @ b'a'..=b'z'] => usize::from(letter - b'a'),
            _ => panic!("{at}: a cluster is one letter, not {name:?}"),
        };
        let pair = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => panic!("{at}: {text:?} is no KEY=VALUE"),
        };
        let world = &mut self.world;
        let mut out = Vec::new();
        let mut outcome = |result: Result<(), tarn_crdt::WriteError>| out.extend(result.err().map(|error| format!("refused: {error}")));
        match words.as_slice() {
            ["found", tuning] => {
                *world = World::found(if *tuning == "tiny" { TINY } else { LAZY });
            }
            [by, "invites", new, scope] => {
                assert_eq!(node(new), world.nodes.len(), "{at}: clusters are invited in the order of their letters");
                world.invite(node(by), scope_of(scope));
            }
            ["link", a, b] => world.link(node(a), node(b)),
            ["cut", a, b] => world.cut(node(a), node(b)),
            ["sync"] => world.pump(),
            ["crash", who] => world.crash(node(who)),
            [who, "puts", what] => {
                let (key, value) = pair(what);
                outcome(world.put(node(who), &key, Some(value.as_bytes())));
            }
            [who, "deletes", key] => outcome(world.put(node(who), key, None)),
            [who, "fills", count] => {
                let count: usize = count.parse().expect("a number of writes");
                (0..count).for_each(|number| outcome(world.put(node(who), &format!("context/n/fill/{}", number % 3), Some(b"x"))));
            }
            [who, "removes", whom] => {
                let whom = world.id(node(whom));
                outcome(world.write(node(who), vec![Write::Remove(whom)]));
                world.tend(node(who));
            }
            ["forge", to, "from", from, what, "signed", signer] => {
                let (key, value) = pair(what);
                let (to, from) = (node(to), node(from));
                let epoch = world.nodes[from].replica.epochs().1;
                let change = History::of(world, from, epoch).next(world.id(from), &key, value.as_bytes());
                let signed = change.signed(&world.nodes[to].replica.federation(), &world.nodes[node(signer)].identity);
                let received = Forger::new(world, to, from).say_changes(world, &[signed]);
                out.extend(received.outcome.err().map(|error| format!("session ended: {error}")));
            }
            ["show", key] => out.extend(world.nodes.iter().enumerate().map(|(at, node)| {
                let versions = node.replica.versions(key);
                format!("{}: {}", letter(at), versions.iter().map(version).collect::<Vec<_>>().join(", over "))
            })),
            ["epochs"] => out.extend(world.nodes.iter().enumerate().map(|(at, node)| {
                let ((base, top), size) = (node.replica.epochs(), node.replica.size());
                let retired = if size.retired > 0 { ", keeps the last one for others" } else { "" };
                format!("{}: folded below {base}, writes {top}{retired}", letter(at))
            })),
            ["clusters", who] => out.extend(world.nodes[node(who)].replica.clusters().iter().map(|about| {
                let removed = if about.removed { ", removed" } else { "" };
                format!("{}: {:?}, introduced by {:?}{removed}", about.id, about.scope, about.introduced_by)
            })),
            ["refusals", who] => out.extend(world.nodes[node(who)].replica.refusals().map(|refusal| refusal.to_string())),
            ["same"] => out.push(same(world)),
            _ => panic!("{at}: what is {input:?}?"),
        }
        let news = self.news();
        let mut named: Vec<String> = out.iter().map(|line| self.named(line)).collect();
        let mut news: Vec<String> = news.iter().map(|line| self.named(line)).collect();
        // What several authors wrote arrives in an order that hangs on their keys, which are made anew for every run.
        news.sort();
        named.extend(news);
        named
    }

    /// What the commits since the last command told, without the federation's books.
    fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for (at, node) in self.world.nodes.iter_mut().enumerate() {
            for commit in std::mem::take(&mut node.told) {
                let books = ["seal/", "confirm/", "folded/"];
                for (key, value) in commit.entries.iter().filter(|(key, _)| !books.iter().any(|book| key.starts_with(book))) {
                    news.push(format!("* {}: {key} {}", letter(at), shown(value.as_deref())));
                }
                news.extend(commit.conflicts.iter().map(|conflict| format!("* {}: conflict on {}", letter(at), conflict.key)));
                let refusals = commit.refusals.iter().filter(|refusal| refusal.reason != Reason::UnknownCluster);
                news.extend(refusals.map(|refusal| format!("* {}: {refusal}", letter(at))));
            }
        }
        news
    }

    /// Ids as letters.
    fn named(&self, line: &str) -> String {
        let clusters = (0..self.world.nodes.len()).map(|at| (self.world.id(at).to_string(), letter(at).to_string()));
        clusters.fold(line.to_owned(), |line, (id, name)| line.replace(&format!("ClusterId({id})"), &name).replace(&id, &name))
    }
}

fn letter(at: usize) -> char {
    char::from(b'a' + at as u8)
}

fn scope_of(text: &str) -> Scope {
    let sections = Shared::ALL.into_iter().filter(|section| text == "all" || text.split('+').any(|name| name == section.name()));
    sections.fold(Scope::NONE, |scope, section| scope | Scope::of(section))
}

fn shown(value: Option<&[u8]>) -> String {
    match value.map(std::str::from_utf8) {
        None => "is gone".to_owned(),
        Some(Ok(text)) if text.len() < 40 => format!("= {text:?}"),
        Some(_) => format!("= {} bytes", value.map_or(0, <[u8]>::len)),
    }
}

fn version(version: &Version) -> String {
    format!("{} by {} in epoch {}", shown(version.value.as_deref()), version.author, version.epoch)
}

/// Which clusters hold the same.
fn same(world: &World) -> String {
    let mut groups: Vec<(Vec<u8>, Vec<String>)> = Vec::new();
    for (at, node) in world.nodes.iter().enumerate() {
        let (canonical, name) = (node.replica.canonical(), letter(at).to_string());
        match groups.iter_mut().find(|(other, _)| *other == canonical) {
            Some((_, names)) => names.push(name),
            None => groups.push((canonical, vec![name])),
        }
    }
    groups.into_iter().map(|(_, names)| names.join(" = ")).collect::<Vec<_>>().join(", other than ")
}
