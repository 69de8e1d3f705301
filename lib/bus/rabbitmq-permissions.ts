/**
 * What each user may do at RabbitMQ (design decision 24), from what its programs declare, publish to and consume. Pure.
 *
 * RabbitMQ compares regular expressions ("Access Control", "Topic Authorisation"): `configure` (declare and delete), `write`
 * (publish to an exchange; be bound, of a queue) and `read` (consume; be bound to, of an exchange) with names of queues and
 * exchanges; of a topic exchange, `write` with the routing key of each message and `read` with each binding key.
 */
import { chainNamePattern, runNamePattern, workQueuePattern } from "../model/names.ts";
import type { PartyAccess } from "../access/identities.ts";
import { DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, EXCHANGE } from "./rabbitmq-topology.ts";
import { ORCHESTRATOR_QUEUE, POLICY_ENFORCER_QUEUE, agentQueue } from "./queues.ts";

/** One user's permissions in one virtual host. */
export interface RabbitMqPermissions {
  readonly configure: string;
  readonly write: string;
  readonly read: string;
  /** On the exchange that all messages go through. */
  readonly topic: { readonly write: string; readonly read: string };
}

/** As a queue's name has it after a service's queue: `-<instance>`, see `instanceReplyQueue`. */
const INSTANCE = "-[0-9a-f]{8}";
/** Of anybody but the core, whose queues have names of the same form. */
const ANY_STEWARD = `(?!(${ORCHESTRATOR_QUEUE}|${POLICY_ENFORCER_QUEUE})(-|$))[A-Za-z][A-Za-z0-9]{0,62}`;
const NOTHING = "^$";

/** Of orchestrator and policy enforcer. They declare exchanges and dead letters, too, and ask every agent. */
export function corePermissions(): RabbitMqPermissions {
  const own = [
    ...[ORCHESTRATOR_QUEUE, POLICY_ENFORCER_QUEUE].map((queue) => `${queue}(${INSTANCE}(-control)?)?`),
    // Of `dynamos doctor`.
    "doctor-[0-9a-f-]{36}",
  ];
  const declared = [...own, EXCHANGE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE];
  return {
    configure: oneOf(declared),
    write: oneOf(declared),
    read: oneOf(declared),
    topic: { write: oneOf([...own, `${ANY_STEWARD}-in`]), read: oneOf(own) },
  };
}

/**
 * Of a party's agent: its own queues; answers to the orchestrator; and, by its role, failures to third parties' runs and
 * answers to their agents, or questions to providers' agents.
 *
 * Declaring a queue whose dead letters go to an exchange demands `write` on that exchange.
 */
export function agentPermissions({ steward, role, partners }: PartyAccess): RabbitMqPermissions {
  const run = runNamePattern([steward]);
  const chain = chainNamePattern([steward]);
  const own = [
    `${agentQueue(steward)}(${INSTANCE}(-control|-runs)?)?`,
    `${run}(-reply)?`,
    workQueuePattern([steward]),
    chain,
  ];
  const partner = partners === undefined ? ANY_STEWARD : oneOfNames(partners);
  return {
    configure: oneOf(own),
    write: oneOf([...own, EXCHANGE, DEAD_LETTER_EXCHANGE]),
    read: oneOf([...own, EXCHANGE]),
    topic: {
      write: oneOf([
        ...own,
        `${ORCHESTRATOR_QUEUE}${INSTANCE}`,
        ...(role === "thirdParty"
          ? []
          : [`${partner}-in${INSTANCE}`, runNamePattern(partners), chainNamePattern(partners)]),
        ...(role === "dataProvider" ? [] : [`${partner}-in`]),
      ]),
      read: oneOf(own),
    },
  };
}

/**
 * Of a party's chains: they declare nothing, read their runs' queues (persistent ones the work queues and their own), and write to
 * their runs' reply queues and to the runs at the other side: frames to a third party's, credits to a provider's.
 */
export function chainPermissions({ steward, partners }: Omit<PartyAccess, "role">): RabbitMqPermissions {
  const run = runNamePattern([steward]);
  return {
    configure: NOTHING,
    write: oneOf([EXCHANGE]),
    read: oneOf([run, workQueuePattern([steward]), chainNamePattern([steward])]),
    topic: {
      write: oneOf([
        `${run}-reply`,
        `${agentQueue(steward)}${INSTANCE}-runs`,
        runNamePattern(partners),
        chainNamePattern(partners),
      ]),
      read: NOTHING,
    },
  };
}

/** Matches the names of a party's queues: what is left when its users are gone. */
export function ownQueues(party: Pick<PartyAccess, "steward">): RegExp {
  return new RegExp(agentPermissions({ ...party, role: "dataProvider" }).configure);
}

/** Anchored: RabbitMQ searches for its expressions anywhere in a name. */
function oneOf(patterns: readonly string[]): string {
  return `^(${patterns.join("|")})$`;
}

function oneOfNames(names: readonly string[]): string {
  return `(${names.join("|")})`;
}
