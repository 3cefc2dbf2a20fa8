// A module of functions on numbers: `sum(n)` adds up the whole numbers from 1 to n. Needs no grant.
export function sum(n: i64): i64 {
  let total: i64 = 0;
  for (let i: i64 = 1; i <= n; i++) total += i;
  return total;
}
