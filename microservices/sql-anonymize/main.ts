/** sql-anonymize: makes sensitive columns safe before they go any further. */
import { readFile } from "node:fs/promises";
import { onlyInput } from "../../sdk/typescript/only-input.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { ROWS_QUESTION } from "../../sdk/typescript/rehearsal-data.ts";
import { planAnonymization } from "./anonymize.ts";
import { SqlAnonymizeSettings } from "./config.ts";

void runMicroservice({
  name: "sql-anonymize",
  rehearsal: { requests: [ROWS_QUESTION] },
  handle: async function* (inputs, { grant, request, settings }) {
    const { schema, batches } = onlyInput(inputs);
    const keyText = await readFile(settings(SqlAnonymizeSettings).DYNAMOS_ANONYMIZATION_KEY_FILE, "utf8");
    const anonymizer = planAnonymization({
      schema,
      dataSets: grant.dataSets,
      query: request.query,
      key: Buffer.from(keyText.trim(), "hex"),
    });
    yield { schema: anonymizer.schema };
    for await (const batch of batches) yield { batch: anonymizer.transform(batch) };
    const { droppedColumns } = anonymizer;
    if (droppedColumns.length > 0) yield { notes: { droppedColumns } };
  },
});
