//! A service for the protocol's tests: each group's state is the list of the commands that it has executed.
//!
//! | payload | does |
//! |---|---|
//! | `text` | appends `text` to the list of every group of γ; the reply gives the places, as `g0#1 g1#4` |
//! | `random` | appends a number drawn from the command's seed |
//! | `now` | appends the group's clock |
//! | `due5000` | as `text`; a time mark at that time removes it, one item a mark |
//! | `long...` | as `text`, but it is not brief |
//! | `reach g3` | asks for group 3's state, inside or outside γ |
//! | a read, ordered or not | replies with the list, as `a b c`; the read `time` with the time, once the clock has come to it |

use psmr_core::command::{GroupId, GroupSet};
use psmr_core::routing::Topology;
use psmr_core::service::{Command, Context, Handles, Partition, ReadContext, ReadOutcome, Replies, Service, Slice};
use std::any::Any;
use std::sync::Arc;

/// Told of each execution before it takes effect: γ, the payload, and whether it is a read.
pub type Watch = Arc<dyn Fn(GroupSet, &str, bool) + Send + Sync>;

/// Lists, one per group.
pub struct Lists {
    watch: Watch,
}

impl Lists {
    /// A service whose executions are told to `watch`.
    pub fn watched(watch: Watch) -> Lists {
        Lists { watch }
    }

    /// A service that nobody watches.
    pub fn new() -> Lists {
        Lists { watch: Arc::new(|_, _, _| {}) }
    }
}

/// One group's list.
pub struct List {
    group: GroupId,
    items: Vec<String>,
    watch: Watch,
}

impl List {
    /// When the next item is due, and where it is.
    fn next_due(&self) -> Option<(u64, usize)> {
        let due = self.items.iter().enumerate().filter_map(|(at, item)| Some((item.strip_prefix("due")?.parse().ok()?, at)));
        due.min()
    }

    fn execute_one(&mut self, command: Command<'_>, context: &Context) -> String {
        if command.read {
            return self.items.join(" ");
        }
        let item = match text(command.payload) {
            "random" => format!("random:{:x}", command.seed),
            "now" => format!("now:{}", context.now_ms),
            other => other.to_string(),
        };
        self.items.push(item);
        format!("{:?}#{}", self.group, self.items.len())
    }
}

fn text(payload: &[u8]) -> &str {
    std::str::from_utf8(payload).expect("tests' payloads are text")
}

impl Partition for List {
    fn execute(&mut self, slice: Slice<'_>, context: &Context, replies: &mut Replies) {
        for command in slice {
            (self.watch)(GroupSet::one(self.group), text(command.payload), command.read);
            let reply = self.execute_one(command, context);
            replies.push(reply.as_bytes());
        }
    }

    fn read(&self, payload: &[u8], context: &ReadContext, reply: &mut Vec<u8>) -> ReadOutcome {
        if text(payload) == "time" {
            if !context.time_is_settled && context.now_ms < context.wall_ms {
                return ReadOutcome::NeedsTime;
            }
            reply.extend_from_slice(context.now_ms.to_string().as_bytes());
            return ReadOutcome::Done;
        }
        (self.watch)(GroupSet::one(self.group), text(payload), true);
        reply.extend_from_slice(self.items.join(" ").as_bytes());
        ReadOutcome::Done
    }

    fn due_ms(&self) -> Option<u64> {
        self.next_due().map(|(ms, _)| ms)
    }

    fn on_time(&mut self, context: &Context) {
        if let Some((_, at)) = self.next_due().filter(|(ms, _)| *ms <= context.now_ms) {
            self.items.remove(at);
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(self.items.join("\n").as_bytes());
        Ok(())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        self.items = text.lines().map(str::to_string).collect();
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Service for Lists {
    fn is_brief(&self, payload: &[u8]) -> bool {
        !text(payload).starts_with("long")
    }

    fn name(&self) -> &str {
        "lists"
    }

    fn partition(&self, group: GroupId, _: &Topology) -> Box<dyn Partition> {
        Box::new(List { group, items: Vec::new(), watch: self.watch.clone() })
    }

    fn execute(&self, handles: &mut Handles<'_>, command: Command<'_>, context: &Context, reply: &mut Vec<u8>) {
        let gamma = handles.gamma();
        (self.watch)(gamma, text(command.payload), command.read);
        if let Some(group) = text(command.payload).strip_prefix("reach g") {
            let group = GroupId(group.parse().expect("a group's number"));
            let outcome = handles.get(group).map(|_| ()).map_err(|e| format!("{:?} is outside {:?}", e.group, e.gamma));
            reply.extend_from_slice(outcome.map_or_else(|e| e, |()| "reached".to_string()).as_bytes());
            return;
        }
        let each: Vec<String> = gamma.iter().map(|group| reach(handles, group).execute_one(command, context)).collect();
        reply.extend_from_slice(each.join(" ").as_bytes());
    }
}

fn reach<'a>(handles: &'a mut Handles<'_>, group: GroupId) -> &'a mut List {
    let partition = handles.get(group).expect("a group of γ");
    partition.as_any_mut().downcast_mut().expect("a list")
}
