/** Gathers what `bus.ts` judges: opens the bus, sends a message through a queue of its own, asks each service queue. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import type { MessageBus } from "../../lib/bus/message-bus.ts";
import { openMessageBus, parseEmbeddedBusUrl } from "../../lib/bus/open.ts";
import { agentQueue, POLICY_ENFORCER_QUEUE, runQueue } from "../../lib/bus/queues.ts";
import { shownUrl } from "../exchange/backends.ts";
import { attempt } from "./attempt.ts";
import type { BusFacts, DeadLetterFacts, QueueFacts } from "./bus.ts";
import type { StoreFacts } from "./store.ts";

/** Dead letters come with their bodies: no more than this. */
const MOST_DEAD_LETTERS = 100;
const TRIAL_EXPIRES_MS = 60_000;

/** Looks at the bus of this URL; which queues there should be follows from who has agreements and who is online. */
export async function probeBus(url: string, store: StoreFacts): Promise<BusFacts> {
  const file = parseEmbeddedBusUrl(url);
  const isFile = file !== undefined;
  const about = { url: shownUrl(url), isFile, queues: [] };
  if (isFile && !existsSync(file.path)) {
    const reached = { ok: false, code: "not_found", message: "There is no such file." } as const;
    return { ...about, missingFile: file.path, reached };
  }
  const opened = await attempt(() => openMessageBus(url));
  const bus = opened.result;
  if (bus === undefined) return { ...about, reached: opened.outcome };
  try {
    const pinged = await attempt(() => bus.ping());
    if (!pinged.outcome.ok) return { ...about, reached: pinged.outcome };
    const queues: QueueFacts[] = [];
    for (const expected of expectedQueues(store)) queues.push(await probeQueue(bus, expected));
    const dead = await attempt(() => bus.deadLetters(MOST_DEAD_LETTERS));
    return {
      ...about,
      reached: opened.outcome,
      tried: (await attempt(() => tryQueue(bus))).outcome,
      queues,
      ...(dead.result === undefined ? {} : { deadLetters: toDeadLetterFacts(dead.result) }),
    };
  } finally {
    await bus.close();
  }
}

type ExpectedQueue = Pick<QueueFacts, "queue" | "owner" | "isRequired">;

/** Stewards must be there; a third party that some agreement trusts serves one archetype of several. */
function expectedQueues({ agreements, agents }: StoreFacts): readonly ExpectedQueue[] {
  const stewards = new Set(agreements.map(({ name }) => name));
  const trusted = agreements.flatMap(({ computeProviders }) => computeProviders);
  const parties = [...new Set([...stewards, ...trusted, ...agents.map(({ name }) => name)])].sort();
  return [
    { queue: POLICY_ENFORCER_QUEUE, owner: "the policy enforcer", isRequired: true },
    ...parties.map((party) => ({
      queue: agentQueue(party),
      owner: `the agent of ${party}`,
      isRequired: stewards.has(party),
    })),
  ];
}

async function probeQueue(bus: MessageBus, expected: ExpectedQueue): Promise<QueueFacts> {
  const status = await bus.queueStatus(expected.queue);
  if (status === undefined) return { ...expected, status };
  // Declaring what is there changes nothing; of another kind it is a conflict.
  const declared = await attempt(() => bus.declareQueue(expected.queue, { kind: "service" }));
  return { ...expected, status, declared: declared.outcome };
}

/** Its queue is a run queue: should this process be killed, it goes by itself. */
async function tryQueue(bus: MessageBus): Promise<void> {
  const queue = runQueue(`doctor-${randomUUID()}`);
  await bus.declareQueue(queue, { kind: "run", expiresMs: TRIAL_EXPIRES_MS });
  try {
    await bus.publish(queue, { type: "doctor", body: Buffer.from("{}") });
    await new Promise<void>((resolve, reject) => {
      const take = async (): Promise<"accept"> => {
        resolve();
        return "accept";
      };
      bus.consume(queue, take, { onLost: reject }).catch(reject);
    });
  } finally {
    await bus.deleteQueue(queue);
  }
}

function toDeadLetterFacts(letters: Awaited<ReturnType<MessageBus["deadLetters"]>>): DeadLetterFacts {
  return {
    letters: letters.map(({ queue, reason, atMs }) => ({ queue, reason, atMs })),
    isCut: letters.length >= MOST_DEAD_LETTERS,
  };
}
