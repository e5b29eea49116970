//! What the kernel offers, and how it is set.

use super::{Bpffs, Finding, Jit, Kernel, Seen, Severity, ok};

/// The oldest kernel we promise.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn judge(kernel: &Kernel, root: bool) -> Vec<Finding> {
    let mut findings = vec![version(&kernel.release), privileges(root)];
    findings.extend([bpffs(kernel.bpffs), jit(&kernel.jit)]);
    findings.extend([attachment(kernel), follower(&kernel.follower)]);
    findings.extend(kernel.lockdown.as_deref().map(lockdown));
    findings.extend(kernel.unprivileged.as_deref().map(unprivileged));
    findings
}

fn version(release: &str) -> Finding {
    let version = super::version(release);
    let found = format!("Linux {release}");
    let finding = ok("kernel.version", found, "netmesh needs Linux 6.1 or later");
    match version {
        Some(version) if version >= OLDEST => finding,
        Some(_) => finding.but(Severity::Error, "install a newer kernel"),
        None => finding.but(Severity::Warning, "compare with `uname -r` yourself"),
    }
}

fn privileges(root: bool) -> Finding {
    let meaning = "namespaces, WireGuard and programs can be made by root only";
    if root {
        ok("privileges", "root", meaning)
    } else {
        ok("privileges", "not root", meaning).but(Severity::Error, "sudo netmesh doctor")
    }
}

fn bpffs(seen: Bpffs) -> Finding {
    let meaning = "pins live there: programs and tables outlive every process";
    match seen {
        Bpffs::Mounted => ok("bpf.fs", "mounted at /sys/fs/bpf", meaning),
        Bpffs::Missing => ok("bpf.fs", "not mounted; apply and attach mount it", meaning)
            .but(Severity::Note, "mount -t bpf -o mode=0700 bpf /sys/fs/bpf"),
        Bpffs::Hidden => ok(
            "bpf.fs",
            "not in this process' mounts, which are not the machine's (`ip netns exec`?)",
            meaning,
        )
        .but(Severity::Error, "from outside: netmesh -n NAME doctor"),
    }
}

fn jit(seen: &Jit) -> Finding {
    let meaning =
        "without it every instruction of the data plane is interpreted: many times slower";
    let value = match seen {
        Jit::Is(value) => value.as_str(),
        Jit::Missing => {
            return ok("bpf.jit", "this kernel has none", meaning)
                .but(Severity::Warning, "use a kernel with CONFIG_BPF_JIT");
        }
        Jit::Unseen => {
            return ok(
                "bpf.jit",
                "unknown: only the initial network namespace tells",
                meaning,
            )
            .but(Severity::Note, "there: sysctl net.core.bpf_jit_enable");
        }
    };
    match value {
        "0" => ok("bpf.jit", "off", meaning)
            .but(Severity::Warning, "sysctl -w net.core.bpf_jit_enable=1"),
        "2" => ok(
            "bpf.jit",
            "on, and writes every program to the kernel's log",
            meaning,
        )
        .but(Severity::Warning, "sysctl -w net.core.bpf_jit_enable=1"),
        _ => ok("bpf.jit", "on", meaning),
    }
}

fn attachment(kernel: &Kernel) -> Finding {
    let links = "TC programs are held by pinned links";
    let filters = "TC programs go into clsact filters, which cannot be pinned: what somebody else \
                   removes there is put back by the next apply";
    match (&kernel.tcx, &kernel.clsact) {
        (Seen::Yes, _) => ok("tc.attachment", "TCX", links),
        (_, Seen::Yes) => ok("tc.attachment", "clsact; no TCX (Linux 6.6)", filters).but(
            Severity::Note,
            "a kernel from 6.6 on has links; nothing needs to be done",
        ),
        (_, Seen::No(why)) => ok(
            "tc.attachment",
            format!("neither TCX nor clsact: {why}"),
            "no TC program can be attached: ports without native XDP, and WireGuard, stay with \
             the kernel",
        )
        .but(Severity::Error, "modprobe sch_ingress cls_bpf"),
        (_, Seen::Unknown(why)) => ok("tc.attachment", format!("not seen: {why}"), links)
            .but(Severity::Warning, "sudo netmesh doctor"),
    }
}

fn follower(seen: &Seen) -> Finding {
    let meaning = "a neighbour that changes is known in the data plane at once; without it, when \
                   its route is applied again";
    match seen {
        Seen::Yes => ok("bpf.btf", "describes the kernel's neighbours", meaning),
        Seen::No(why) | Seen::Unknown(why) => ok("bpf.btf", why.clone(), meaning).but(
            Severity::Warning,
            "use a kernel with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)",
        ),
    }
}

/// `[none] integrity confidentiality`: the one in brackets is in force.
fn lockdown(modes: &str) -> Finding {
    let mode = modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("unknown", |(mode, _)| mode);
    let meaning = "in the mode confidentiality no program may read the kernel's memory: the \
                   neighbour follower and netmesh trace are refused";
    let finding = ok("kernel.lockdown", mode, meaning);
    if mode == "confidentiality" {
        let remedy = "boot with lockdown=integrity to have them; forwarding does not need it";
        return finding.but(Severity::Note, remedy);
    }
    finding
}

fn unprivileged(value: &str) -> Finding {
    let check = "kernel.unprivileged_bpf";
    if value == "0" {
        let meaning = "every user may load programs into the kernel that forwards for all";
        return ok(check, "allowed", meaning).but(
            Severity::Warning,
            "sysctl -w kernel.unprivileged_bpf_disabled=2",
        );
    }
    ok(check, "not allowed", "only root may load programs")
}
