//! Users who lose a node: what they ask it does not arrive, its answers do not, or neither.
//!
//! A lost answer is the harder of the two: the command has its effect, and the client must find out by asking again under the same request id.

use std::collections::BTreeMap;

use crate::dice::Dice;
use crate::net::{FIRST_CLIENT, Party};
use crate::plan::Plan;
use crate::world::World;

/// The cuts between users and nodes of one run, with dice of their own.
pub struct UserCuts {
    dice: Dice,
    users: Vec<Party>,
    /// The longest time from one cut to the next, in milliseconds. `None`: there are none.
    every_ms: Option<u64>,
    next_ms: u64,
    /// Directions that are restored, by the time.
    restored: BTreeMap<u64, Vec<(Party, Party)>>,
}

impl UserCuts {
    /// What a plan allows.
    pub fn new(plan: &Plan) -> Self {
        Self {
            dice: Dice::new(plan.seed, "users are cut"),
            users: users(plan),
            every_ms: plan.users_cut_every_ms,
            next_ms: 0,
            restored: BTreeMap::new(),
        }
    }

    /// What is due in this millisecond happens. True: somebody was cut from a node.
    pub fn happen(&mut self, world: &World) -> bool {
        let later = self.restored.split_off(&(world.now_ms + 1));
        for (from, to) in std::mem::replace(&mut self.restored, later).into_values().flatten() {
            world.net.restore(from, to);
        }
        let Some(every_ms) = self.every_ms.filter(|_| world.now_ms >= self.next_ms) else {
            return false;
        };
        self.next_ms = world.now_ms + self.dice.between(every_ms / 4, every_ms);
        let nodes: Vec<Party> = world.hosts.keys().copied().collect();
        let node = *self.dice.pick(&nodes).expect("a world has nodes");
        let all = self.dice.percent(50);
        let (asking, answering) = *self.dice.pick(&[(true, false), (false, true), (true, true)]).expect("three");
        let mut cut = Vec::new();
        for user in &self.users {
            if all || self.dice.percent(50) {
                cut.extend(asking.then_some((*user, node)));
                cut.extend(answering.then_some((node, *user)));
            }
        }
        if !cut.is_empty() {
            world.trace.note(format!("users are cut from node {node}: {} directions, asking {asking}, answering {answering}", cut.len()));
        }
        for (from, to) in &cut {
            world.net.change(*from, *to, |quality| quality.cut = true);
        }
        let happened = !cut.is_empty();
        let end_ms = world.now_ms + self.dice.between(100, 4_000);
        self.restored.entry(end_ms).or_default().extend(cut);
        happened
    }
}

/// The numbers of all clients and workers.
pub fn users(plan: &Plan) -> Vec<Party> {
    (FIRST_CLIENT..FIRST_CLIENT + plan.clients + plan.workers).collect()
}
