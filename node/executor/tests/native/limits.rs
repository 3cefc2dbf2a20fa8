//! What is limited besides memory, time and output.

use crate::{Bench, c, shell};

#[tokio::test]
async fn a_fork_bomb_is_contained() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = c(r#"
#include <unistd.h>
int main(void) { for (;;) { fork(); } }
"#);
    attempt.limits.time_ms = 500;
    let failure = bench.run(attempt).await.unwrap_err();
    // How much of the kernel's own memory hundreds of processes take that start others and fail, and whether that reaches the memory limit
    // before the time is over, differs from kernel to kernel and from run to run.
    assert!(matches!(failure.error.reason(), "TIME_LIMIT" | "MEMORY_LIMIT"), "{failure}");
    assert_eq!(bench.prints("echo still here").await, "still here\n");
}

#[tokio::test]
async fn processes_are_counted() {
    let Some(bench) = Bench::new().await else { return };
    let report = bench
        .run(c(r#"
#include <stdio.h>
#include <unistd.h>
int main(void) {
    int started = 0;
    for (; started < 2000; started++) {
        int child = fork();
        if (child < 0) break;
        if (child == 0) { pause(); return 0; }
    }
    printf("%d\n", started);
    return 0;
}
"#))
        .await
        .unwrap();
    let started: u64 = String::from_utf8_lossy(&report.output).trim().parse().unwrap();
    assert!((200..=tarn_executor::native::PROCESSES_DEFAULT).contains(&started), "{started}");
}

/// The launcher, which stands in the same control group, has more memory than each of these processes. It outlives them, and so does who
/// waits for them, who says so.
#[tokio::test]
async fn for_want_of_memory_the_kernel_kills_the_program_and_not_its_launcher() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = c(r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    for (int started = 0; started < 200; started++) {
        if (fork() == 0) {
            volatile char *memory = malloc(1 << 20);
            for (int i = 0; i < 1 << 20; i += 1024) memory[i] = 1;
            pause();
        }
    }
    int status = 0;
    wait(&status);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) fputs("one of them was killed\n", stderr);
    return 0;
}
"#);
    attempt.limits.memory_bytes = 32 << 20;
    let failure = bench.run(attempt).await.unwrap_err();
    assert_eq!(failure.error.reason(), "MEMORY_LIMIT", "{failure}");
    assert_eq!(failure.logs, "one of them was killed\n");
    assert_eq!(bench.prints("echo still here").await, "still here\n");
}

#[tokio::test]
async fn files_are_limited_in_bytes_and_number() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = shell("head -c 1G /dev/zero > /tmp/large 2>/dev/null || true; stat -c %s /tmp/large");
    attempt.limits.memory_bytes = 512 << 20;
    let report = bench.run(attempt).await.unwrap();
    let bytes: u64 = String::from_utf8_lossy(&report.output).trim().parse().unwrap();
    assert!((1..=64 << 20).contains(&bytes), "{bytes}");

    let report = bench
        .run(c(r#"
#include <fcntl.h>
#include <stdio.h>
int main(void) {
    int opened = 0;
    while (opened < 100000 && open("/dev/null", O_RDONLY) >= 0) opened++;
    printf("%d\n", opened);
    return 0;
}
"#))
        .await
        .unwrap();
    let opened: u64 = String::from_utf8_lossy(&report.output).trim().parse().unwrap();
    assert!(opened < 1024, "{opened}");
}

#[tokio::test]
async fn files_in_memory_count_as_memory() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = shell("head -c 60M /dev/zero > /tmp/large; sleep 1000");
    attempt.limits.memory_bytes = 16 << 20;
    let failure = bench.run(attempt).await.unwrap_err();
    assert_eq!(failure.error.reason(), "MEMORY_LIMIT", "{failure}");
}

#[tokio::test]
async fn input_that_nobody_reads_and_output_that_nobody_closes_hold_nothing_up() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = shell("sleep 1000 & echo done");
    if let tarn_executor::Kind::Command(command) = &mut attempt.kind {
        command.input = vec![0; 4 << 20].into();
    }
    // The child in the background has the output open; it ends with the shell.
    assert_eq!(bench.run(attempt).await.unwrap().output, "done\n");
}
