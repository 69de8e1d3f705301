/** How long chains take, and how they end: the metric `dynamos.chain.duration`. */
import type { Clock } from "../../lib/clock.ts";
import { toAppError } from "../../lib/errors.ts";
import type { CompositionRequest } from "../../lib/model/composition.ts";
import { dynamosMeter } from "../../lib/telemetry/metrics.ts";
import type { ExecutionEvent } from "./execution.ts";

const MS_PER_S = 1000;

/**
 * Passes a chain's events on, and measures from the first question for one to the end: `ok`, a code of `lib/errors.ts`, or
 * `abandoned` where the reader stopped asking.
 */
export async function* measureChain(
  composition: Pick<CompositionRequest, "archetype_id" | "role">,
  clock: Clock,
  events: AsyncIterable<ExecutionEvent>,
): AsyncGenerator<ExecutionEvent, void, undefined> {
  const duration = dynamosMeter().createHistogram("dynamos.chain.duration", {
    unit: "s",
    description: "Duration of chains, all attempts included, by how they ended",
  });
  const startedMs = clock.now();
  let outcome = "abandoned";
  try {
    yield* events;
    outcome = "ok";
  } catch (thrown) {
    outcome = toAppError(thrown).code;
    throw thrown;
  } finally {
    const labels = { archetype: composition.archetype_id, role: composition.role, outcome };
    duration.record((clock.now() - startedMs) / MS_PER_S, labels);
  }
}
