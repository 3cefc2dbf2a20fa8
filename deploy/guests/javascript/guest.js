// A task: returns its input, a JSON array of numbers, sorted. Needs the grant `log`.
import { write } from "tarn:guest/log@0.1.0";

export const task = {
  run(input) {
    const numbers = JSON.parse(new TextDecoder().decode(input));
    if (!Array.isArray(numbers) || !numbers.every(Number.isFinite)) {
      throw { tag: "never", val: "the input is no JSON array of numbers" };
    }
    write("info", `${numbers.length} numbers`);
    numbers.sort((a, b) => a - b);
    return new TextEncoder().encode(JSON.stringify(numbers));
  },
};
