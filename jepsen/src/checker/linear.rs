//! Linearizability: is there an order of the operations in which every answer is right, and which respects that an operation that ended
//! before another began comes first?
//!
//! The search is the one of Wing and Gong ("Testing and verifying concurrent objects", 1993) in the form of Lowe ("Testing for
//! linearizability", 2017) called just-in-time: it walks through the history once and keeps the set of all *configurations* that are
//! possible so far, a configuration being a state of the object and the set of operations that are still open but have taken effect
//! already. Only when an operation returns is it required to have taken effect, and only then are others put before it. Equal
//! configurations are kept once, which is what makes long histories cheap: the set's size depends on how many operations are open at a
//! time, not on the history's length.
//!
//! An operation whose outcome is unknown never returns: it stays open to the end, and may take effect at any time after its invocation or
//! never. Three things keep such operations from blowing the set up. Equal ones are interchangeable, so that only the first of them that has
//! not taken effect is tried. A configuration that has used up more of them than another, and is equal otherwise, can do nothing that the
//! other cannot, and is dropped. And where a model promises that an effect cannot happen twice ([`Model::ONCE`]), they are not remembered
//! at all.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What the object should do, one operation after the other.
pub trait Model {
    /// The object's state.
    type State: Clone + Eq + Hash + Debug;
    /// An operation together with its answer; one whose outcome is unknown fits every answer.
    type Op: Eq + Hash + Debug;

    /// Whether an operation of unknown outcome that took effect can never take effect again in any later state, as where each effect uses up
    /// a number that only grows.
    const ONCE: bool = false;

    /// The state in which the history begins.
    fn initial(&self) -> Self::State;

    /// The state after the operation; `None` where its answer is wrong in this state.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// One operation of a history.
#[derive(Debug, Clone)]
pub struct Call<Op> {
    /// What was asked and answered.
    pub op: Op,
    /// The index of the event that began it.
    pub invoked: u64,
    /// The index of the event that ended it; `None` where its outcome is unknown.
    pub returned: Option<u64>,
}

/// How much a search may cost before it is given up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Configurations at once, which bounds the memory.
    pub configurations: usize,
    /// Time for one object.
    pub time: Duration,
}

impl Default for Limits {
    /// 300,000 configurations, about 100 MB; 30 seconds.
    fn default() -> Self {
        Self { configurations: 300_000, time: Duration::from_secs(30) }
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is such an order. Says how many configurations were possible at once at most.
    Linearizable(usize),
    /// There is none: the operation that returned at this index fits nowhere. The text names it and the states that were possible.
    Impossible(u64, String),
    /// The search was given up.
    GaveUp(String),
}

/// What may have happened so far: a state, and the open operations that have taken effect, in ascending order.
#[derive(Debug, Clone)]
struct Configuration<State> {
    state: State,
    /// Those that will return.
    effective: Vec<usize>,
    /// Those whose outcome is unknown.
    used: Vec<usize>,
}

/// Configurations, without those that can do nothing that another cannot.
struct Configurations<State> {
    by_state: HashMap<(State, Vec<usize>), Vec<Vec<usize>>>,
    count: usize,
}

impl<State: Clone + Eq + Hash> Configurations<State> {
    fn new() -> Self {
        Self { by_state: HashMap::new(), count: 0 }
    }

    /// Puts one in; false if there is one already that can do all that it can.
    fn insert(&mut self, new: &Configuration<State>) -> bool {
        let key = (new.state.clone(), new.effective.clone());
        let known = self.by_state.entry(key).or_default();
        if known.iter().any(|used| is_subset(used, &new.used)) {
            return false;
        }
        let before = known.len();
        known.retain(|used| !is_subset(&new.used, used));
        known.push(new.used.clone());
        self.count = self.count + known.len() - before;
        true
    }

    /// Whether it was put in, and nothing better came since.
    fn contains(&self, configuration: &Configuration<State>) -> bool {
        let key = (configuration.state.clone(), configuration.effective.clone());
        let known = self.by_state.get(&key);
        known.is_some_and(|known| known.contains(&configuration.used))
    }

    fn iter(&self) -> impl Iterator<Item = Configuration<State>> + '_ {
        self.by_state.iter().flat_map(|((state, effective), known)| {
            known.iter().map(|used| Configuration { state: state.clone(), effective: effective.clone(), used: used.clone() })
        })
    }
}

/// Whether everything in the first is in the second, both being in ascending order.
fn is_subset(small: &[usize], large: &[usize]) -> bool {
    let mut large = large.iter();
    small.iter().all(|one| large.any(|other| other == one))
}

fn insert_sorted(list: &[usize], item: usize) -> Vec<usize> {
    let mut list = list.to_vec();
    list.insert(list.partition_point(|other| *other < item), item);
    list
}

/// What happens at an index of the history.
#[derive(Clone, Copy)]
enum Moment {
    Invoked(usize),
    Returned(usize),
}

/// Searches for an order of the calls on one object.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Op>], limits: Limits) -> Answer {
    let mut moments = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        moments.insert(call.invoked, Moment::Invoked(at));
        if let Some(returned) = call.returned {
            moments.insert(returned, Moment::Returned(at));
        }
    }
    let mut search = Search {
        model,
        calls,
        twins: twins(calls),
        open: Vec::new(),
        possible: Configurations::new(),
        most: 1,
        limits,
        end: Instant::now() + limits.time,
    };
    search.possible.insert(&Configuration { state: model.initial(), effective: Vec::new(), used: Vec::new() });
    for (index, moment) in moments {
        match moment {
            Moment::Invoked(at) => search.open.push(at),
            Moment::Returned(at) => {
                if let Err(answer) = search.returned(at, index) {
                    return answer;
                }
            }
        }
    }
    Answer::Linearizable(search.most)
}

/// For each call of unknown outcome, the equal one that was invoked last before it, if there is one.
fn twins<Op: Eq + Hash>(calls: &[Call<Op>]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].returned.is_none()).collect();
    order.sort_by_key(|at| calls[*at].invoked);
    let mut last: HashMap<&Op, usize> = HashMap::new();
    let mut twins = vec![None; calls.len()];
    for at in order {
        twins[at] = last.insert(&calls[at].op, at);
    }
    twins
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    twins: Vec<Option<usize>>,
    /// Calls that were invoked and have not returned, in ascending order of their invocation.
    open: Vec<usize>,
    possible: Configurations<M::State>,
    most: usize,
    limits: Limits,
    end: Instant,
}

impl<M: Model> Search<'_, M> {
    /// The call has returned: only configurations in which it has taken effect remain possible.
    fn returned(&mut self, call: usize, index: u64) -> Result<(), Answer> {
        let mut todo: VecDeque<_> = self.possible.iter().collect();
        let mut seen = std::mem::replace(&mut self.possible, Configurations::new());
        let mut after = Configurations::new();
        while let Some(configuration) = todo.pop_front() {
            if !seen.contains(&configuration) {
                continue;
            }
            if let Ok(at) = configuration.effective.binary_search(&call) {
                let mut done = configuration;
                done.effective.remove(at);
                after.insert(&done);
                continue;
            }
            for next in self.successors(&configuration) {
                if seen.insert(&next) {
                    // Those that use up unknown operations come last, because others may make them superfluous.
                    match next.used.len() > configuration.used.len() {
                        true => todo.push_back(next),
                        false => todo.push_front(next),
                    }
                }
            }
            self.afford(seen.count + after.count, index)?;
        }
        if after.count == 0 {
            return Err(Answer::Impossible(index, self.explain(call, &seen)));
        }
        self.open.retain(|open| *open != call);
        self.most = self.most.max(seen.count);
        self.possible = after;
        Ok(())
    }

    /// Gives the search up where it costs too much.
    fn afford(&self, configurations: usize, index: u64) -> Result<(), Answer> {
        let limit = self.limits;
        if configurations > limit.configurations {
            return Err(Answer::GaveUp(format!(
                "more than {} configurations at event {index}, with {} operations open",
                limit.configurations,
                self.open.len()
            )));
        }
        if Instant::now() >= self.end {
            return Err(Answer::GaveUp(format!("more than {:?} at event {index}", limit.time)));
        }
        Ok(())
    }

    /// The configurations after one more open call has taken effect.
    fn successors<'b>(&'b self, from: &'b Configuration<M::State>) -> impl Iterator<Item = Configuration<M::State>> + 'b {
        self.open.iter().filter_map(move |at| {
            let call = &self.calls[*at];
            let mut next = Configuration { state: self.model.step(&from.state, &call.op)?, ..from.clone() };
            if call.returned.is_some() {
                if from.effective.binary_search(at).is_ok() {
                    return None;
                }
                next.effective = insert_sorted(&from.effective, *at);
            } else if !M::ONCE {
                let is_used = |at: usize| from.used.binary_search(&at).is_ok();
                if is_used(*at) || self.twins[*at].is_some_and(|twin| !is_used(twin)) {
                    return None;
                }
                next.used = insert_sorted(&from.used, *at);
            }
            Some(next)
        })
    }

    fn explain(&self, call: usize, seen: &Configurations<M::State>) -> String {
        let states: HashSet<String> = seen.by_state.keys().map(|(state, _)| format!("{state:?}")).collect();
        let mut states: Vec<String> = states.into_iter().collect();
        states.sort();
        let count = states.len();
        states.truncate(5);
        let call = &self.calls[call];
        format!(
            "{:?} of events {} to {} fits none of the {count} states that were possible, such as {}",
            call.op,
            call.invoked,
            call.returned.unwrap_or(call.invoked),
            states.join(", ")
        )
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
