//! The `jepsen` command.

fn main() {
    for (name, what) in tarn_jepsen::nemesis::names() {
        println!("{name:16} {what}");
    }
}
