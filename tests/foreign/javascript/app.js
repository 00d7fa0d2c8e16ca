// A plugin in JavaScript: one file of data, through granted commands.

import * as exec from 'strongroom:plugin/exec@0.1.0';
import * as run from 'strongroom:plugin/run@0.1.0';
import * as storage from 'strongroom:plugin/storage@0.1.0';

const invocation = (command, slots, stdin) => ({ command, slots, stdin, timeoutMs: undefined });

const failed = (message) => { throw { tag: 'failed', val: message }; };

export const component = {
  backup(_request) {
    run.log('info', 'from JavaScript', []);
    const process = exec.spawn(invocation('dump', [['file', 'shop.txt']], undefined));
    const artifact = storage.put('data.txt', process.stdout(), { mediaType: 'text/plain', compress: true }).wait();
    return {
      sourceId: 'shop',
      facts: [['size', String(artifact.size)]],
      skipped: [],
      notCaptured: [],
      needs: [],
      state: '',
    };
  },

  verify(_request) {
    const output = exec.run(invocation('count', [], storage.get('data.txt')));
    if (output.exit.code !== 0) failed(`count: ${output.exit.stderr}`);
    const lines = Number(String.fromCharCode(...output.stdout));
    const title = 'the lines can be counted';
    return [{ id: 'javascript.lines', title, outcome: 'passed', evidence: `${lines} lines`, causes: [], remedies: [] }];
  },

  restore(request) {
    if (!request.planOnly) {
      const process = exec.spawn(invocation('load', [['file', 'back.txt']], storage.get('data.txt')));
      if (process.wait().code !== 0) failed('load failed');
    }
    run.reportStep({ action: 'write', target: 'back.txt', outcome: 'passed', note: '' });
  },

  diagnose(_request) {
    failed('this plugin knows nothing of its system');
  },
};
