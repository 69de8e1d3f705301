/**
 * A policy enforcer of somebody else, for tests: a process that speaks the bus and nothing of ours but the messages. It
 * allows every steward what its second argument says, refuses those of its third, and answers nothing about `Silent`.
 *
 * Arguments: the bus, `{allowedArchetypes, allowedComputeProviders, dataSets}` as JSON, `{steward: refusal}` as JSON.
 */
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { reply } from "../../lib/bus/rpc.ts";
import { RequestApprovalMessage, type StewardValidation, type ValidationResponse } from "../../lib/messages.ts";

type Allowed = Pick<StewardValidation, "allowedArchetypes" | "allowedComputeProviders" | "dataSets">;

const [busUrl = "", allowedText = "", refusalsText = "{}"] = process.argv.slice(2);
const allowed = JSON.parse(allowedText) as Allowed;
const refusals = JSON.parse(refusalsText) as Record<string, { code: string; detail: string }>;
const nothing: Allowed = { allowedArchetypes: [], allowedComputeProviders: [], dataSets: [] };

const bus = await openMessageBus(busUrl);
await bus.declareQueue(POLICY_ENFORCER_QUEUE, { kind: "service" });
await bus.consume(POLICY_ENFORCER_QUEUE, async (delivery) => {
  const question = decodeJson(delivery, RequestApprovalMessage);
  const stewards = question.dataProviders.map((steward): StewardValidation => {
    const refusal = refusals[steward];
    return { steward, agreementRevision: 0, ...(refusal === undefined ? allowed : { ...nothing, refusal }) };
  });
  const answer: ValidationResponse = { type: "validationResponse", stewards };
  if (question.dataProviders.includes("Silent")) return "accept";
  await reply(bus, delivery, { type: MESSAGE_TYPES.validationResponse, body: encodeJson(answer) });
  return "accept";
});
process.stdin.on("end", () => process.exit(0)).resume();
process.stdout.write("answering\n");
