/**
 * What each user may read and write in etcd (design decision 24), from what its programs ask for. Pure. Chains have no user:
 * their sidecars know no store.
 */
import type { PartyAccess } from "../access/identities.ts";
import {
  agentInstanceKeys,
  agentRequestKeys,
  agreementKeys,
  archetypeKeys,
  datasetKeys,
  doctorKeys,
  forcedServicesKeys,
  jobKeys,
  lockKeys,
  microserviceKeys,
  onlineKeys,
  orchestratorOnlineKeys,
  orchestratorRequestKeys,
  answerOwnerKeys,
  planKeys,
  providedStreamKeys,
  requestTypeKeys,
  seedKeys,
} from "./keys.ts";

/** One right: on one key, or on all that start with a prefix. */
export interface EtcdRight {
  readonly mode: "read" | "readwrite";
  readonly key: string;
  readonly isPrefix: boolean;
}

/** Of orchestrator and policy enforcer: all documents and their own records; who is online. */
export function coreRights(): readonly EtcdRight[] {
  const own = [
    orchestratorOnlineKeys,
    orchestratorRequestKeys,
    answerOwnerKeys,
    planKeys,
    lockKeys,
    seedKeys,
    doctorKeys,
  ];
  const documents = [archetypeKeys, requestTypeKeys, microserviceKeys, agreementKeys, datasetKeys, forcedServicesKeys];
  return [
    ...[...own, ...documents].map((keys) => below("readwrite", keys.prefix())),
    ...[onlineKeys, agentInstanceKeys].map((keys) => below("read", keys.prefix())),
  ];
}

/**
 * Of a party's agent: its own records; who else is online; the documents that chains are made of; its own agreement. A third
 * party reads its partners' agreements, too: what an answer follows from is in them.
 *
 * Following its own agreement, an agent watches all keys that start with the agreement's, which the right has to cover.
 */
export function agentRights({ steward, role, partners }: PartyAccess): readonly EtcdRight[] {
  const online = partners?.map((party) => onlineKeys.prefix({ party })) ?? [onlineKeys.prefix()];
  const theirs = partners?.map((each) => only(agreementKeys.key({ steward: each }))) ?? [
    below("read", agreementKeys.prefix()),
  ];
  return [
    ...partyPrefixes(steward).map((prefix) => below("readwrite", prefix)),
    ...online.map((prefix) => below("read", prefix)),
    ...[datasetKeys, requestTypeKeys, microserviceKeys].map((keys) => below("read", keys.prefix())),
    only(forcedServicesKeys.key({ steward })),
    below("read", agreementKeys.key({ steward })),
    ...(role === "dataProvider" ? [] : theirs),
  ];
}

/** Where a party's own records lie: what goes with its user. */
export function partyPrefixes(party: string): readonly string[] {
  return [
    onlineKeys.prefix({ party }),
    agentInstanceKeys.prefix({ party }),
    // The leases of its jobs, too.
    jobKeys.prefix({ party }),
    agentRequestKeys.prefix({ party }),
    providedStreamKeys.prefix({ party }),
  ];
}

function below(mode: EtcdRight["mode"], key: string): EtcdRight {
  return { mode, key, isPrefix: true };
}

function only(key: string): EtcdRight {
  return { mode: "read", key, isPrefix: false };
}
