//! A name that nothing has: what is called much like it.

use crate::control::{ControlError, ErrorKind, StoryKind};

use super::Witness;

/// How alike two names are at least, to be mistaken for each other.
const NEAR: f64 = 0.75;
/// Names that are offered.
const MOST: usize = 3;

impl Witness {
    /// The answer where there is no story.
    pub(super) fn nothing(&self, kind: Option<StoryKind>) -> ControlError {
        let what = match kind {
            None => "no namespace, plugin or device is called so, and none was of late",
            Some(StoryKind::Netns) => "no namespace is called so, and none was of late",
            Some(StoryKind::Plugin) => "no plugin is called so, and none was since the start",
            Some(StoryKind::Dev) => "no device is called so, and none was of late",
        };
        let near = self.near(kind);
        let lists = "see `pernetctl netns list`, `pernetctl plugin list` and `pernetctl dev list`";
        let remedy = match near.as_slice() {
            [] => lists.to_owned(),
            near => format!("did you mean {}? {lists}", near.join(" or ")),
        };
        ControlError::new(ErrorKind::NotFound, self.name.clone(), what, remedy)
    }

    fn near(&self, kind: Option<StoryKind>) -> Vec<String> {
        let (gone_nets, gone_devices) = self.shared.chronicle.gone_names();
        let mut known: Vec<(StoryKind, String)> = Vec::new();
        let mut add = |kind, names: Vec<String>| known.extend(names.into_iter().map(|name| (kind, name)));
        let names = |net: &crate::engine::Net| net.names().iter().map(ToString::to_string).collect::<Vec<_>>();
        add(StoryKind::Netns, self.nets.iter().flat_map(|(net, _)| names(net)).collect());
        add(StoryKind::Netns, gone_nets);
        add(StoryKind::Plugin, self.config.plugins.iter().map(|plugin| plugin.name.clone()).collect());
        add(StoryKind::Plugin, self.shared.chronicle.plugin_names());
        for (net, place) in &self.nets {
            add(StoryKind::Dev, net.devices().iter().map(|device| device.link.name.clone()).collect());
            add(StoryKind::Dev, place.devices.gone_names());
        }
        add(StoryKind::Dev, gone_devices);
        let mut near: Vec<(f64, String)> = Vec::new();
        for (its_kind, name) in known.into_iter().filter(|(its_kind, _)| kind.is_none_or(|kind| kind == *its_kind)) {
            let like = strsim::jaro_winkler(&name, &self.name);
            let told = format!("`{name}` ({})", its_kind.as_str());
            if like >= NEAR && near.iter().all(|(_, before)| *before != told) {
                near.push((like, told));
            }
        }
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.into_iter().take(MOST).map(|(_, told)| told).collect()
    }
}
