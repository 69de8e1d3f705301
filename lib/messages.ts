/**
 * Control messages on the bus: JSON bodies, one schema per message type (`lib/bus/message-types.ts`). Frames and run messages
 * are protobuf (`proto/`).
 */
import { Type, type Static } from "@sinclair/typebox";
import { CompositionRequest } from "./model/composition.ts";
import { DataRequest, RequestOptions } from "./model/data-request.ts";
import { DocumentName, StewardName, User } from "./model/names.ts";

/** Request ids are UUIDs; they go into names of queues and jobs. */
const REQUEST_ID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

/** A failure in a message; see `lib/errors.ts`. */
export const FailureBody = Type.Object({
  code: Type.String(),
  detail: Type.String(),
  party: Type.Optional(Type.String()),
  retryable: Type.Boolean(),
  place: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  details: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
});

/** `requestApproval`: orchestrator to policy enforcer (`policyEnforcer-in`). */
export const RequestApprovalMessage = Type.Object({
  type: DocumentName,
  user: User,
  dataProviders: Type.Array(StewardName),
  dataSets: Type.Optional(Type.Array(DocumentName)),
  options: Type.Optional(RequestOptions),
  /** Algorithms the request names, where it carries the question already. */
  algorithms: Type.Optional(Type.Array(Type.String())),
});
export type RequestApprovalMessage = Static<typeof RequestApprovalMessage>;

/** Stable reason codes of a refusal by agreement. */
export const REFUSAL_CODES = [
  "no_agreement",
  "no_relation",
  "relation_not_valid_now",
  "request_type_not_allowed",
  "data_set_not_allowed",
  "operation_not_allowed",
  "no_archetype_allowed",
  "compute_provider_not_allowed",
] as const;
export type RefusalCode = (typeof REFUSAL_CODES)[number];

/** Why a steward refuses. */
export const Refusal = Type.Object({ code: Type.String(), detail: Type.String() });
export type Refusal = Static<typeof Refusal>;

/** One steward's answer: what it allows, or why it refuses. */
export const StewardValidation = Type.Object({
  steward: StewardName,
  /** Present where the steward refuses; the lists are empty then. */
  refusal: Type.Optional(Refusal),
  /** Intersection of the relation's and the steward's lists. */
  allowedArchetypes: Type.Array(DocumentName),
  allowedComputeProviders: Type.Array(StewardName),
  dataSets: Type.Array(DocumentName),
  /** Revision of the agreement that decided; 0 where there is none. */
  agreementRevision: Type.Integer(),
});
export type StewardValidation = Static<typeof StewardValidation>;

/** `validationResponse`: policy enforcer to the orchestrator's reply queue. */
export const ValidationResponse = Type.Object({
  type: Type.Literal("validationResponse"),
  stewards: Type.Array(StewardValidation),
  /** Why nothing could be decided; `stewards` is empty then. */
  failure: Type.Optional(FailureBody),
});
export type ValidationResponse = Static<typeof ValidationResponse>;

/** `compositionRequest`: orchestrator to `<STEWARD>-in`; answered by {@link CompositionAcknowledgement}. */
export const CompositionMessage = CompositionRequest;

/** `compositionAcknowledgement`: the job is registered, or why not. */
export const CompositionAcknowledgement = Type.Object({
  steward: StewardName,
  jobName: Type.String(),
  failure: Type.Optional(FailureBody),
});
export type CompositionAcknowledgement = Static<typeof CompositionAcknowledgement>;

/**
 * `policyUpdate`: orchestrator to an agent that leaves a job (nothing allows it any more, or another party answers now);
 * answered by {@link CompositionAcknowledgement}.
 */
export const PolicyUpdate = Type.Object({
  jobName: Type.String(),
  user: User,
  planVersion: Type.Integer(),
  /** `stopped`: no plan is legal any more; runs end with `agreement_gone`. `moved`: ask the parties named. */
  outcome: Type.Union([Type.Literal("stopped"), Type.Literal("moved")]),
  detail: Type.String(),
  archetype: Type.Optional(DocumentName),
  /** Party name to endpoint of those who answer now. */
  authorizedProviders: Type.Record(StewardName, Type.String()),
});
export type PolicyUpdate = Static<typeof PolicyUpdate>;

/** `sqlDataRequest` and other request types: a third party's agent to a data provider's `<STEWARD>-in`. */
export const ProviderDataRequest = Type.Object({
  requestId: Type.String({ pattern: REQUEST_ID }),
  jobName: Type.String(),
  user: User,
  /** The analyst's token, checked again here (decision 18). */
  accessToken: Type.String(),
  request: DataRequest,
  /** The third party, and the run queue there that takes the frames. */
  computeProvider: StewardName,
  returnAddress: Type.String({ minLength: 1 }),
  /** The third party's own attempt at the request: each asks for the stream anew. */
  attempt: Type.Integer({ minimum: 1 }),
  credits: Type.Integer({ minimum: 1 }),
  deadlineMs: Type.Integer(),
});
export type ProviderDataRequest = Static<typeof ProviderDataRequest>;

/** `cancel`: to `<STEWARD>-in` of every party of a plan. Clients choose request ids, so only job and id together are unique. */
export const CancelMessage = Type.Object({
  requestId: Type.String(),
  jobName: Type.String(),
  /** From a third party: only the stream to this run of its, not one that it has asked for since. */
  returnAddress: Type.Optional(Type.String()),
  reason: FailureBody,
});
export type CancelMessage = Static<typeof CancelMessage>;

/** `endRuns`: to the control queue of every other instance of the party that was told: ends a job's runs, or one request's. */
export const EndRunsMessage = Type.Object({
  jobName: Type.String(),
  requestId: Type.Optional(Type.String()),
  returnAddress: Type.Optional(Type.String()),
  reason: FailureBody,
});
export type EndRunsMessage = Static<typeof EndRunsMessage>;

/** Which instance provides a stream, and in which life of the request: `/agents/streams/<NAME>/<third party's run>`. */
export const StreamClaim = Type.Object({
  instance: Type.String(),
  life: Type.Integer({ minimum: 0 }),
  /** The instance ended without having provided it whole: anybody may go on. */
  isAbandoned: Type.Optional(Type.Boolean()),
});
export type StreamClaim = Static<typeof StreamClaim>;

/** An instance of a party's agent, living or stopping: `/agents/instances/<NAME>/<instance>`. */
export const AgentInstanceRecord = Type.Object({ instance: Type.String(), instanceUrl: Type.String() });
export type AgentInstanceRecord = Static<typeof AgentInstanceRecord>;

/** Which instance runs a data request: `/agents/requests/<NAME>/<user>/<id>`. */
export const RequestClaim = AgentInstanceRecord;
export type RequestClaim = AgentInstanceRecord;

/** Who is online: `/agents/online/<NAME>/<instance>`. */
export const OnlineRecord = Type.Object({
  name: StewardName,
  activeSince: Type.String(),
  routingKey: Type.String(),
  /** Base URL of the party's HTTP API for users (on a cluster: the service's, which any instance answers), without a path. */
  dns: Type.String(),
  /** Base URL of this very instance, for calls between services. */
  instanceUrl: Type.String(),
  instance: Type.String(),
  /** Public keys (JWK) that this steward's grants are signed with. */
  grantKeys: Type.Array(Type.Record(Type.String(), Type.Unknown())),
});
export type OnlineRecord = Static<typeof OnlineRecord>;

/** An orchestrator that takes requests: `/orchestrator/online/<instance>`. */
export const OrchestratorOnlineRecord = Type.Object({
  instance: Type.String(),
  /** Base URL of this very instance's HTTP API, without a path. */
  url: Type.String(),
  activeSince: Type.String(),
});
export type OrchestratorOnlineRecord = Static<typeof OrchestratorOnlineRecord>;
