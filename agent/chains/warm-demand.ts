/**
 * How many warm chains of which shape there should be: as many as requests came at once lately, so that as many find one, under a
 * ceiling for all shapes together. Pure.
 */

/** How often demand halves in the window, where shapes compete. */
const HALVINGS = 10;

/** What was asked of one shape. Times are ms since the epoch, in any order. */
export interface ShapeDemand {
  /** Attempts that wanted a chain, warm or not. */
  readonly claims: readonly number[];
  /** Approvals, whose requests are still to come. */
  readonly expected: readonly number[];
}

/** What sizing goes by. */
export interface DemandRules {
  /** Demand that is older counts no more. */
  readonly windowMs: number;
  /** Requests within this time find no chain that was started for the first of them: how long a chain takes to be ready. */
  readonly coverMs: number;
  /** Most warm chains of all shapes together. */
  readonly ceiling: number;
}

/**
 * The number of warm chains by shape; shapes without one are left out. Where the ceiling does not suffice for all, each shape has one
 * before any has two; those with more demand come first, where demand counts half after a tenth of the window: what is asked now
 * overtakes what was asked often before.
 */
export function warmTargets(
  demands: ReadonlyMap<string, ShapeDemand>,
  rules: DemandRules,
  nowMs: number,
): ReadonlyMap<string, number> {
  const wanted = [...demands]
    .map(([key, demand]) => ({ key, ...wantOf(demand, rules, nowMs) }))
    .filter(({ want }) => want > 0)
    .sort((left, right) => right.weight - left.weight || (left.key < right.key ? -1 : 1));
  const targets = new Map<string, number>();
  let left = rules.ceiling;
  for (let round = 1; left > 0; round++) {
    const takers = wanted.filter(({ want }) => want >= round).slice(0, left);
    if (takers.length === 0) break;
    for (const { key } of takers) targets.set(key, round);
    left -= takers.length;
  }
  return targets;
}

/** The demand without what counts no more; undefined: nothing is left of it. */
export function recentDemand(demand: ShapeDemand, windowMs: number, nowMs: number): ShapeDemand | undefined {
  const isRecent = (atMs: number): boolean => nowMs - atMs < windowMs;
  const claims = demand.claims.filter(isRecent);
  const expected = demand.expected.filter(isRecent);
  return claims.length + expected.length === 0 ? undefined : { claims, expected };
}

function wantOf(
  demand: ShapeDemand,
  { windowMs, coverMs, ceiling }: DemandRules,
  nowMs: number,
): { readonly want: number; readonly weight: number } {
  const recent = recentDemand(demand, windowMs, nowMs);
  if (recent === undefined) return { want: 0, weight: 0 };
  const events = [...recent.claims, ...recent.expected];
  const atOnce = Math.max(mostWithin(recent.claims, coverMs), mostWithin(recent.expected, coverMs));
  const halfMs = windowMs / HALVINGS;
  const weight = events.reduce((sum, atMs) => sum + 2 ** ((atMs - nowMs) / halfMs), 0);
  return { want: Math.min(ceiling, atOnce), weight };
}

/** The most of these times that lie within one such span. */
function mostWithin(timesMs: readonly number[], spanMs: number): number {
  const times = [...timesMs].sort((left, right) => left - right);
  let most = 0;
  let first = 0;
  for (const [index, timeMs] of times.entries()) {
    while (timeMs - (times[first] ?? timeMs) >= spanMs) first += 1;
    most = Math.max(most, index - first + 1);
  }
  return most;
}
