/** Names of queues (decisions 1 and 3). A queue's binding key is its name. */

import { AppError } from "../errors.ts";
import { chainPrefix } from "../model/names.ts";

/** Requests to the orchestrator; shared by its replicas. */
export const ORCHESTRATOR_QUEUE = "orchestrator-in";

/** Requests to the policy enforcer; shared by its replicas. */
export const POLICY_ENFORCER_QUEUE = "policyEnforcer-in";

/** Requests to the agent of a steward or third party; shared by its replicas. */
export function agentQueue(steward: string): string {
  return checkQueueName(`${steward}-in`);
}

/**
 * Answers to one process, which alone holds the socket that waits for them. `service` is `orchestrator`, a steward's
 * name and so on; `instance` is unique per process start.
 */
export function instanceReplyQueue(service: string, instance: string): string {
  return checkQueueName(`${service}-in-${instance}`);
}

/** What one instance of a service is told by its siblings: to end runs, which only it holds. */
export function instanceControlQueue(service: string, instance: string): string {
  return checkQueueName(`${service}-in-${instance}-control`);
}

/** What comes back from persistent chains to one instance of a party's agent, of all its runs there. */
export function instanceRunsQueue(steward: string, instance: string): string {
  return checkQueueName(`${steward}-in-${instance}-runs`);
}

/** Requests for the persistent chains of one shape, which take them from there; shared by the replicas of the party's agent. */
export function chainWorkQueue(steward: string, shapeKey: string): string {
  return checkQueueName(chainPrefix(steward, shapeKey));
}

/** What goes to one run: its request, its input, credits. The queue has the run's name. */
export function runQueue(runName: string): string {
  return checkQueueName(runName);
}

/** What comes back from one run to the agent instance that holds the caller. */
export function runReplyQueue(runName: string): string {
  return checkQueueName(`${runName}-reply`);
}

/**
 * The name, if it can be one: 1 to 255 bytes of UTF-8 (AMQP 0-9-1 short string), without `*` and `#`, which would turn
 * the binding key into a pattern that catches other queues' messages. Otherwise `invalid_argument`.
 */
export function checkQueueName(queue: string): string {
  const bytes = Buffer.byteLength(queue);
  if (bytes === 0 || bytes > 255) {
    throw new AppError(
      "invalid_argument",
      `A queue name has 1 to 255 bytes; ${JSON.stringify(queue.slice(0, 80))} has ${bytes}.`,
    );
  }
  if (/[*#]/.test(queue)) {
    throw new AppError(
      "invalid_argument",
      `The queue name "${queue}" contains "*" or "#", which are patterns in binding keys.`,
    );
  }
  return queue;
}
