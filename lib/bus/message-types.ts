/**
 * The `type` of every message on the bus (`queues.ts`). The first seven are the names of the DYNAMOS
 * prototype; the rest are new here.
 */
export const MESSAGE_TYPES = {
  /** Orchestrator → policy enforcer: who asks what of whom. */
  requestApproval: "requestApproval",
  /** Policy enforcer → orchestrator: what each steward allows, or why not. */
  validationResponse: "validationResponse",
  /** Orchestrator → agent: its role in a plan. */
  compositionRequest: "compositionRequest",
  /** Orchestrator → whoever asked over the bus: the approval's outcome. */
  requestApprovalResponse: "requestApprovalResponse",
  /** An agreement changed: the jobs that it touches are looked at again. */
  policyUpdate: "policyUpdate",
  /** A data request to an agent or to a chain. */
  sqlDataRequest: "sqlDataRequest",
  /** Between microservices over the bus, as in the prototype. */
  microserviceCommunication: "microserviceCommunication",
  /** Agent → orchestrator: the composition is registered, or why not. */
  compositionAcknowledgement: "compositionAcknowledgement",
  /** Receiver → provider's run queue: how many more chunks it may send (decision 7). */
  credit: "credit",
  /** To every party of a plan: stop this run (decision 22). */
  cancel: "cancel",
  /** One instance of an agent → another of the same party: end these runs, which only you hold. */
  endRuns: "endRuns",
  /** Chain → agent: how a run ended. */
  runReport: "runReport",
  /** One frame of a stream: start, chunk, end or failure (decision 5). */
  frame: "frame",
} as const;

/** The name of a message type. */
export type MessageType = (typeof MESSAGE_TYPES)[keyof typeof MESSAGE_TYPES];
