#!/usr/bin/env node
/** The command line: parses arguments, calls one command. */
import { parseArgs } from "node:util";
import { AppError, isUnexpected, toAppError } from "../lib/errors.ts";
import { EXCHANGE_FLAGS } from "./exchange/settings.ts";

const USAGE = `dynamos: data exchange between data stewards

  dynamos up [--configuration FOLDER] [--port N] [--state FOLDER] [WHERE …]
      runs an exchange on this machine until Ctrl-C; without a folder, the sample's
  dynamos demo [--keep] [WHERE …]
      plays the story of the README and checks its answers
  dynamos doctor [--configuration FOLDER] [--state FOLDER] [--store URL] [--bus URL] [--orchestrator URL]
                 [--ca FILE] [--json]
      looks at a deployment, and says what is wrong with it and what to do
  dynamos doctor --kubernetes [--namespace NAME …] [--try-network] [--json]
      looks at a deployment's cluster, as KUBECONFIG or this pod's service account may; tries from an agent's pod
      whether NetworkPolicies are enforced
  dynamos ask [FILE] [--orchestrator URL] [--ready URL …] [--wait SECONDS]
      sends the request in a file, and prints the answer; without a file: who can be asked
  dynamos dead-letters [list|show ID|replay ID] [--bus URL] [--state FOLDER] [--limit N] [--json]
      what the message bus could not deliver, without its contents; sends one again
  dynamos data propose FILE … [--delimiter CHARACTER]
      proposes a data set's columns and their types from its files
  dynamos data check DATASET.json PARTY.json
      checks a party's files against a data set: every row
  dynamos data sample FOLDER
      writes the sample's data files
  dynamos steward add NAME|--core | remove NAME | list …
      makes, renews and takes away credentials at etcd and RabbitMQ (docs/operations.md, "Credentials")

WHERE is how the exchange runs (docs/configuration.md, "Store, bus, sidecars and replicas"):
  --store URL          knowledge store: etcd://HOST:PORT, or sqlite:FILE (default: one of its own)
  --bus URL            message bus: amqp://USER:PASSWORD@HOST:PORT/VHOST, or embedded:FILE (default: one of its own)
  --sidecar PLACE      who reaches the bus for the parts: inProcess (default) or separate
  --replicas N         processes of each part (default: 1)
`;

const [command = "help", ...rest] = process.argv.slice(2);
const write = (line: string): void => console.log(line);
try {
  process.exitCode = await dispatch(command, rest);
} catch (error) {
  const known = toAppError(error);
  const place = known.place;
  const where = [place?.file, place?.line, place?.column].filter((part) => part !== undefined).join(":");
  // On one's own machine nothing is to be hidden.
  const message = isUnexpected(known) && known.cause instanceof Error ? known.cause.message : known.message;
  console.error(`${where === "" ? "" : `${where}: `}${message} [${known.code}]`);
  process.exitCode = 1;
}

async function dispatch(name: string, args: string[]): Promise<number> {
  switch (name) {
    case "up": {
      const { values } = parseArgs({
        args,
        options: {
          configuration: { type: "string" },
          port: { type: "string", default: "8080" },
          state: { type: "string" },
          ...EXCHANGE_FLAGS,
        },
      });
      const { up } = await import("./commands/up.ts");
      await up({
        configuration: values.configuration,
        port: portNumber(values.port),
        stateFolder: values.state,
        flags: values,
        write,
        untilStopped: stopSignal(),
      });
      return 0;
    }
    case "demo": {
      const { values } = parseArgs({
        args,
        options: { keep: { type: "boolean", default: false }, ...EXCHANGE_FLAGS },
      });
      const { demo } = await import("./commands/demo.ts");
      return demo({ write, keep: values.keep, flags: values });
    }
    case "doctor": {
      const { values } = parseArgs({
        args,
        options: {
          configuration: { type: "string" },
          state: { type: "string" },
          store: { type: "string" },
          bus: { type: "string" },
          orchestrator: { type: "string" },
          ca: { type: "string" },
          kubernetes: { type: "boolean", default: false },
          "try-network": { type: "boolean", default: false },
          namespace: { type: "string", multiple: true, default: [] },
          json: { type: "boolean", default: false },
        },
      });
      const { doctor } = await import("./commands/doctor.ts");
      const { configuration, state, store, bus, orchestrator, ca, json, namespace } = values;
      const tryNetwork = values["try-network"];
      if ((namespace.length > 0 || tryNetwork) && !values.kubernetes)
        throw new AppError("invalid_argument", "--namespace and --try-network go with --kubernetes.");
      const kubernetes = values.kubernetes ? { namespaces: namespace, tryNetwork } : undefined;
      return doctor({ configuration, stateFolder: state, store, bus, orchestrator, ca, kubernetes, json, write });
    }
    case "ask": {
      const { values, positionals } = parseArgs({
        args,
        allowPositionals: true,
        options: {
          orchestrator: { type: "string", default: "http://localhost:8080" },
          ready: { type: "string", multiple: true, default: [] },
          wait: { type: "string", default: "0" },
        },
      });
      const { ask } = await import("./commands/ask.ts");
      const { orchestrator, ready, wait } = values;
      if (positionals.length > 1) throw new Error("dynamos ask takes one file.");
      return ask({ file: positionals[0], orchestrator, ready, waitMs: seconds(wait) * 1000, write });
    }
    case "dead-letters": {
      const { values, positionals } = parseArgs({
        args,
        allowPositionals: true,
        options: {
          bus: { type: "string" },
          state: { type: "string" },
          limit: { type: "string", default: "100" },
          json: { type: "boolean", default: false },
        },
      });
      const { deadLetters } = await import("./commands/dead-letters.ts");
      const { bus, state, json } = values;
      return deadLetters({ words: positionals, bus, stateFolder: state, limit: count(values.limit), json, write });
    }
    case "data": {
      const { data } = await import("./commands/data.ts");
      return data(args, write);
    }
    case "steward": {
      const { steward } = await import("./commands/steward.ts");
      return steward(args, write);
    }
    default:
      write(USAGE);
      return name === "help" || name === "--help" ? 0 : 2;
  }
}

function portNumber(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Error(`--port ${text} is no port: 0 to 65535.`);
  return port;
}

function count(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1) throw new Error(`--limit ${text}: write a number from 1.`);
  return limit;
}

function seconds(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new Error(`--wait ${text}: write a number of seconds.`);
  return Number(text);
}

function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGINT", resolve);
    process.once("SIGTERM", resolve);
  });
}
