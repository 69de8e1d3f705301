/**
 * Tries one connection that no policy opens, from an agent's pod to the policy enforcer: whether NetworkPolicies are enforced is the
 * network plugin's doing, and no object of the cluster tells it.
 */
import { Writable } from "node:stream";
import { Exec, KubeConfig } from "@kubernetes/client-node";
import { attempt } from "./attempt.ts";
import type { NamespaceFacts, NetworkTrial, PodFacts } from "./kubernetes-facts.ts";

const CONNECT_MS = 3_000;
const LIMIT_MS = 15_000;
const AGENT = "dynamos-agent";
const ENFORCER = "dynamos-policy-enforcer";

interface Place {
  readonly namespace: string;
  readonly pod: PodFacts;
}

/** Tries it between pods that are ready. */
export async function tryNetwork(namespaces: readonly NamespaceFacts[]): Promise<NetworkTrial> {
  const from = readyPod(namespaces, AGENT);
  const to = readyPod(namespaces, ENFORCER);
  if (from === undefined || to?.pod.address === undefined) {
    return {
      tried: false,
      why: "it takes an agent and a policy enforcer that are ready, in namespaces that are looked at.",
    };
  }
  const { ip, port } = to.pod.address;
  const { outcome, result } = await attempt(() => run(from, connectionScript(ip, port)), LIMIT_MS);
  if (!outcome.ok) return { tried: false, why: `nothing can be run in the pod ${from.pod.name}: ${outcome.message}` };
  const said = result?.trim();
  if (said !== "open" && said !== "closed") return { tried: false, why: `the pod ${from.pod.name} gave no answer.` };
  return { tried: true, from: name(from), to: name(to), isOpen: said === "open" };
}

function readyPod(namespaces: readonly NamespaceFacts[], part: string): Place | undefined {
  return namespaces
    .flatMap(({ name: namespace, pods }) => pods.map((pod) => ({ namespace, pod })))
    .find(({ pod }) => pod.part === part && pod.isReady && !pod.isEnding);
}

function name({ namespace, pod }: Place): string {
  return `${pod.name} in ${namespace}`;
}

function connectionScript(host: string, port: number): string {
  return `const say = (word) => { process.stdout.write(word); process.exit(); };
    require("net").connect(${String(port)}, ${JSON.stringify(host)}).setTimeout(${String(CONNECT_MS)})
      .on("connect", () => say("open")).on("timeout", () => say("closed")).on("error", () => say("closed"));`;
}

/** What a script of Node's writes that is run in an agent's container. */
async function run({ namespace, pod }: Place, script: string): Promise<string> {
  const config = new KubeConfig();
  config.loadFromDefault();
  let text = "";
  const output = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      text += chunk.toString("utf8");
      done();
    },
  });
  await new Promise<void>((resolve, reject) => {
    new Exec(config)
      .exec(namespace, pod.name, "agent", ["node", "-e", script], output, null, null, false, () => resolve())
      .catch((fault: unknown) => reject(fault instanceof Error ? fault : new Error("the API server refuses it")));
  });
  return text;
}
