/** How long a delivery that is to come again waits first. */

const FIRST_MS = 20;
const MAX_MS = 1000;

/** Milliseconds: a failing delivery comes back soon at first, and no more than once a second later. */
export function retryDelayMs(redeliveryCount: number): number {
  return Math.min(MAX_MS, FIRST_MS * 2 ** Math.min(redeliveryCount, 10));
}
