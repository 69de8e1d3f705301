/** The doctor's look at the message bus. Facts in, findings out; pure. */
import type { DeadLetter, QueueStatus } from "../../lib/bus/message-bus.ts";
import { fault, ok, skip, type Finding, type Outcome } from "./findings.ts";

/** A service queue that should be there. */
export interface QueueFacts {
  readonly queue: string;
  /** Whose it is: `the policy enforcer`, `the agent of VU`. */
  readonly owner: string;
  /** Nothing works for its owner without it; else only a part does not, such as one archetype. */
  readonly isRequired: boolean;
  /** Undefined: there is no such queue. */
  readonly status: QueueStatus | undefined;
  /** Whether it is declared as our programs do; absent where it is not there. */
  readonly declared?: Outcome;
}

/** Dead letters that were read. */
export interface DeadLetterFacts {
  readonly letters: readonly Pick<DeadLetter, "queue" | "reason" | "atMs">[];
  /** There may be more. */
  readonly isCut: boolean;
}

/** What was found of the bus. */
export interface BusFacts {
  /** As it may be shown: without credentials. */
  readonly url: string;
  readonly isFile: boolean;
  readonly missingFile?: string;
  readonly reached: Outcome;
  /** A queue was made, a message went through it, and it was deleted. */
  readonly tried?: Outcome;
  readonly queues: readonly QueueFacts[];
  readonly deadLetters?: DeadLetterFacts;
}

const REFUSED: ReadonlySet<string> = new Set(["unauthenticated", "forbidden", "access_refused"]);
/** Messages of service queues are taken within milliseconds: so many waiting mean that whoever takes them cannot keep up. */
const DEEP = 100;
const DEAD_LETTERS_COMMAND = "npx dynamos dead-letters";

/** Judges the bus. */
export function judgeBus(facts: BusFacts): readonly Finding[] {
  const reached = judgeReached(facts);
  if (reached.level === "fail") return [reached, skip("bus.works", "The rest of the bus was not looked at.")];
  return [
    reached,
    ...(facts.tried === undefined ? [] : [judgeTried(facts, facts.tried)]),
    ...facts.queues.flatMap((queue) => judgeQueue(queue)),
    ...(facts.deadLetters === undefined ? [] : [judgeDeadLetters(facts.deadLetters)]),
  ];
}

function judgeReached({ url, isFile, missingFile, reached }: BusFacts): Finding {
  if (missingFile !== undefined) {
    return fault(
      "bus.reachable",
      "fail",
      `There is no file ${missingFile}: no exchange has run here.`,
      "Start one (npm start), or say where its bus is: --state FOLDER, or --bus URL (DYNAMOS_BUS).",
    );
  }
  if (reached.ok) return ok("bus.reachable", `The message bus ${url} answers (${String(reached.ms)} ms).`);
  if (REFUSED.has(reached.code)) {
    return fault(
      "bus.reachable",
      "fail",
      `The message bus ${url} refuses the credentials: ${reached.message}`,
      "Give user, password and virtual host that the broker knows in the URL (DYNAMOS_BUS): rabbitmqctl list_permissions.",
    );
  }
  const fix = isFile
    ? "If another program holds the file, end it; see that its owner may write it and that the disk is not full."
    : "See that RabbitMQ runs and that its address in DYNAMOS_BUS can be reached from here: rabbitmqctl status.";
  return fault("bus.reachable", "fail", `The message bus ${url} does not answer: ${reached.message}`, fix);
}

function judgeTried({ isFile }: BusFacts, tried: Outcome): Finding {
  if (tried.ok) return ok("bus.works", `A message went through a queue of its own (${String(tried.ms)} ms).`);
  const fix = isFile
    ? "See that the disk is not full and that no other program has locked the file."
    : "If the broker has a memory or disk alarm, it takes no messages (rabbitmqctl status names alarms); else see this user's permissions (rabbitmqctl list_permissions).";
  return fault("bus.works", "fail", `No message came through: ${tried.message}`, fix);
}

function judgeQueue({ queue, owner, isRequired, status, declared }: QueueFacts): readonly Finding[] {
  const level = isRequired ? "fail" : "warn";
  const start = `Start ${owner}; if it runs, its log says why it does not take messages.`;
  if (status === undefined) {
    return [fault("bus.queue", level, `There is no queue ${queue}: ${owner} has never run on this bus.`, start)];
  }
  const findings: Finding[] = [];
  if (declared?.ok === false) {
    findings.push(
      declared.code === "conflict"
        ? fault(
            "bus.queue",
            "fail",
            `The queue ${queue} is of another kind than ${owner} declares: ${declared.message}`,
            `Stop ${owner}, delete the queue when it is empty, and start it: it declares the queue anew.`,
          )
        : fault("bus.queue", "warn", `The queue ${queue} could not be checked: ${declared.message}`, "See bus.works."),
    );
  }
  if (status.consumers === 0) {
    const waiting = status.ready === 0 ? "" : `, and ${count(status.ready, "message")} wait for it`;
    findings.push(fault("bus.consumers", level, `Nobody takes from ${queue}: ${owner} is down${waiting}.`, start));
  } else if (status.ready > DEEP) {
    const found = `${String(status.ready)} messages wait in ${queue}: ${owner} cannot keep up, or hangs.`;
    const fix = `See the log and the load of ${owner}; another replica of it shares the work.`;
    findings.push(fault("bus.depth", "warn", found, fix));
  } else {
    const taken = `${queue} has ${count(status.consumers, "consumer")} and ${count(status.ready, "waiting message")}.`;
    findings.push(ok("bus.consumers", taken));
  }
  return findings;
}

/** What expired has been answered with an error long ago; what was rejected or failed again and again wants to be seen. */
function judgeDeadLetters({ letters, isCut }: DeadLetterFacts): Finding {
  const failed = letters.filter(({ reason }) => reason !== "expired");
  const expired = letters.length - failed.length;
  const atLeast = isCut ? "at least " : "";
  if (failed.length === 0) {
    const also = expired === 0 ? "" : ` (${atLeast}${String(expired)} questions expired unanswered)`;
    return ok("bus.dead-letters", `No message failed for good${also}.`);
  }
  const queues = [...new Set(failed.map(({ queue }) => queue))].sort().join(", ");
  const newestMs = Math.max(...failed.map(({ atMs }) => atMs ?? 0));
  const newest = newestMs === 0 ? "" : `, the newest at ${new Date(newestMs).toISOString()}`;
  return fault(
    "bus.dead-letters",
    "warn",
    `${atLeast}${count(failed.length, "message")} failed for good, from ${queues}${newest}.`.replace(/^a/, "A"),
    `Look at them (${DEAD_LETTERS_COMMAND}), mend the cause, then replay or delete them (docs/operations.md).`,
  );
}

function count(number: number, noun: string): string {
  return `${String(number)} ${noun}${number === 1 ? "" : "s"}`;
}
