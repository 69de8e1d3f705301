/** How each command is called, and what is a wrong call. */
import { AppError, toAppError } from "../lib/errors.ts";

const TITLE = "dynamos: data exchange between data stewards";

/** Of each command, as it is printed. */
const COMMANDS = {
  up: `
  dynamos up [--configuration FOLDER] [--port N] [--state FOLDER] [WHERE …]
      runs an exchange on this machine until Ctrl-C; without a folder, the sample's`,
  demo: `
  dynamos demo [--keep] [WHERE …]
      plays the story of the README and checks its answers`,
  doctor: `
  dynamos doctor [--configuration FOLDER] [--state FOLDER] [--store URL] [--bus URL] [--orchestrator URL]
                 [--ca FILE] [--json]
      looks at a deployment, and says what is wrong with it and what to do
  dynamos doctor --kubernetes [--namespace NAME …] [--try-network] [--json]
      looks at a deployment's cluster, as KUBECONFIG or this pod's service account may; tries from an agent's pod
      whether NetworkPolicies are enforced`,
  ask: `
  dynamos ask [FILE] [--orchestrator URL] [--ready URL …] [--wait SECONDS]
      sends the request in a file, and prints the answer; without a file: who can be asked`,
  "dead-letters": `
  dynamos dead-letters [list|show ID|replay ID] [--bus URL] [--state FOLDER] [--limit N] [--json]
      what the message bus could not deliver, without its contents; sends one again`,
  data: `
  dynamos data propose FILE … [--delimiter CHARACTER]
      proposes a data set's columns and their types from its files
  dynamos data check DATASET.json PARTY.json
      checks a party's files against a data set: every row
  dynamos data sample FOLDER
      writes the sample's data files`,
  steward: `
  dynamos steward add NAME|--core | remove NAME | list …
      makes, renews and takes away credentials at etcd and RabbitMQ (docs/operations.md, "Credentials")`,
} as const;

/** A command of `dynamos`. */
export type CommandName = keyof typeof COMMANDS;

const WHERE = `
WHERE is how the exchange runs (docs/configuration.md, "Store, bus, sidecars and replicas"):
  --store URL          knowledge store: etcd://HOST:PORT, or sqlite:FILE (default: one of its own)
  --bus URL            message bus: amqp://USER:PASSWORD@HOST:PORT/VHOST, or embedded:FILE (default: one of its own)
  --sidecar PLACE      who reaches the bus for the parts: inProcess (default) or separate
  --replicas N         processes of each part (default: 1)
  --set PART:NAME=V    a setting of one part, such as agent-VU:DYNAMOS_WARM_CHAINS=2; as often as needed
`;

/** All that `dynamos steward` takes. */
export const STEWARD_USES = [
  "dynamos steward add NAME (--out FOLDER [--mount FOLDER] | --secret NAME) [SERVERS]",
  "            [--role dataProvider|thirdParty|both] [--partners NAME,NAME…] [--untried]",
  "dynamos steward add --core (--out FOLDER [--mount FOLDER] | --secret NAME | --given FOLDER) [SERVERS] [--untried]",
  "dynamos steward remove NAME [SERVERS]",
  "dynamos steward list [SERVERS]",
  "SERVERS: --store URL --broker URL --broker-management URL (or DYNAMOS_ADMIN_STORE, …_BROKER, …_BROKER_MANAGEMENT)",
  "         [--party-store-address HOST:PORT,…] [--party-broker-address HOST:PORT,…] [--enable-auth] [--wait SECONDS]",
] as const;

/** All commands. */
export function usage(): string {
  const each = "\n  dynamos COMMAND --help\n      says how that command is called";
  return `${TITLE}\n${Object.values(COMMANDS).join("")}${each}\n${WHERE}`;
}

/** Whether there is such a command. */
export function isCommand(name: string): name is CommandName {
  return Object.hasOwn(COMMANDS, name);
}

/** One command. */
export function usageOf(name: CommandName): string {
  const text = COMMANDS[name];
  const details = name === "steward" ? `\n${STEWARD_USES.map((line) => `\n  ${line}`).join("")}` : "";
  return `Use:${text}${details}\n${text.includes("[WHERE …]") ? WHERE : ""}`;
}

/** Whether arguments ask for help rather than for the command; what follows `--` does not. */
export function asksForHelp(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  return (end === -1 ? args : args.slice(0, end)).some((argument) => argument === "--help" || argument === "-h");
}

/** A call with a value that its option does not take, or arguments too many. */
export function wrongCall(message: string): AppError {
  return new AppError("invalid_argument", message, { details: WRONG_CALL });
}

/** The error for a call that cannot be understood: a {@link wrongCall}, or what `parseArgs` throws; undefined for other errors. */
export function asWrongCall(thrown: unknown): AppError | undefined {
  if (isParseError(thrown)) return wrongCall(thrown.message);
  const error = toAppError(thrown);
  return isParseError(error.cause) || error.details === WRONG_CALL ? error : undefined;
}

const WRONG_CALL = { reason: "wrongCall" } as const;

function isParseError(thrown: unknown): thrown is Error {
  return thrown instanceof Error && String((thrown as NodeJS.ErrnoException).code).startsWith("ERR_PARSE_ARGS_");
}
