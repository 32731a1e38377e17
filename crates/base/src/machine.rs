//! What the machine offers: memory and processors, a container's limits included.

/// Physical memory in bytes.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// The memory limit of the control group that this process is in, if there is one (cgroup v2, then v1).
#[allow(clippy::disallowed_methods, reason = "a file of the kernel, not of the disk")]
pub fn container_memory_bytes() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse().ok())
}

/// The name that this machine gives itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Processors that this process may use; at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets the threads of other work go before the calling thread, by so many steps of niceness (Linux counts it by thread).
/// Where the system refuses, nothing changes.
pub fn lower_thread_priority(steps: i32) {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    // Not lowering it costs latency of others, never correctness.
    let _ = rustix::process::setpriority_process(None, nice.saturating_add(steps));
}
