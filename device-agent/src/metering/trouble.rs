//! What hinders metering, in words for people.

/// What hinders metering, for people to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The state directory.
    pub spool: Option<String>,
    /// The node's processes and pods.
    pub processes: Option<String>,
    /// The API server refuses evidence.
    pub delivery: Option<String>,
}

impl Trouble {
    /// Sets one part; true if that is news.
    pub fn set(&mut self, part: fn(&mut Self) -> &mut Option<String>, now: Option<String>) -> bool {
        let before = std::mem::replace(part(self), now);
        before != *part(self)
    }

    /// What a person should read, if anything.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        let said = [
            (&self.processes, "use cannot be metered"),
            (&self.spool, "evidence would not survive a restart"),
            (&self.delivery, "evidence is refused"),
        ];
        let said: Vec<String> = said
            .into_iter()
            .filter_map(|(why, what)| Some(format!("{what}: {}", why.as_ref()?)))
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}
