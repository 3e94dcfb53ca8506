//! What the probe plugins recorded, read back.

use std::fs;

use serde::Deserialize;

/// One call of a hook of a probe.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    pub plugin: String,
    /// Which build of the plugin's file.
    pub build: u32,
    /// The configuration's label.
    pub label: String,
    /// Which instance of the mapping, counted from 1.
    pub instance: u64,
    pub hook: String,
    /// `subsys`, `device` or `notifier`.
    pub op: String,
    pub netns: String,
    pub cookie: Option<u64>,
    /// The namespace's life.
    pub generation: Option<u32>,
    pub reason: Option<String>,
    pub device: Option<String>,
    pub replay: Option<bool>,
    pub area_is_mine: Option<bool>,
    /// The answer to something asked of the daemon.
    pub errno: Option<i32>,
    /// What was said where that is not 0.
    pub message: Option<String>,
    /// What went wrong there as configured.
    pub fault: Option<String>,
    /// The namespace in which the thread was: `net:[inode]`.
    pub inside: String,
    /// The content of the file that the configuration names.
    pub read: Option<String>,
}

impl Call {
    /// In short: `a init blue`, `a exit blue Died`, `b device.init blue`, `b netdev.up blue lo`, `a run_in 0`.
    pub fn trace(&self) -> String {
        let plugin = self.plugin.strip_prefix("probe-").unwrap_or(&self.plugin);
        let hook = self.hook.strip_prefix("pernet.").unwrap_or(&self.hook);
        let own = if self.hook.starts_with("pernet.") || self.hook.contains('.') { "" } else { "plugin." };
        let op = if self.op == "device" { "device." } else { "" };
        let errno = self.errno.map(|e| e.to_string());
        let rest = [Some(&self.netns), self.device.as_ref(), self.reason.as_ref(), errno.as_ref()];
        let rest = rest.into_iter().flatten().filter(|word| !word.is_empty()).map(|word| format!(" {word}"));
        format!("{plugin} {own}{op}{hook}{}", rest.collect::<String>())
    }
}

/// The record so far. A line that is being written is left for the next time.
pub(super) fn read(path: &str) -> Vec<Call> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The calls in short.
pub fn traces(calls: &[Call]) -> Vec<String> {
    calls.iter().map(Call::trace).collect()
}

/// The calls in this namespace, in short and without its name being repeated.
pub fn of(calls: &[Call], netns: &str) -> Vec<String> {
    let here = calls.iter().filter(|c| c.netns == netns);
    here.map(|c| c.trace().replace(&format!(" {netns}"), "")).collect()
}
