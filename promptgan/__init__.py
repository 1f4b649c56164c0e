"Learn, train and use small text-to-image GANs, with words written by ChatGPT"
__version__ = "0.1.0"

_WHERE = dict(TextToImagePipeline='pipeline', TextImageData='data', check_folder='check', scenes='datasets', emoji='datasets',
              text_gan_learner='train', evaluate='metrics', evaluate_prompts='metrics', probe='contrast', train_text_model='contrast', TextModel='text',
              SentenceModel='pretrained', ImageEncoder='imagewords', train_on_pictures='imagewords',
              build_networks='networks', summary='networks', PRESETS='networks', Recipe='learner', GANLearner='learner',
              show_grid='core', default_device='core', pick_precision='core', PromptganError='base', DataError='base', CaptionError='base',
              InputError='base', CheckpointError='base', CheckpointCorrupt='base', CheckpointMismatch='base', RunLocked='base',
              TrainingDiverged='base', LLMError='base', BudgetExceeded='base', ChatGPT='llm', ChatGPTCaptioner='bulk',
              TemplateCaptioner='captions', caption_folder='bulk', ChatGPTRewriter='rewrite', rewrite_captions='rewrite',
              write_prompts='invent', ground_prompt='prompts', Playground='playground', Interpolation='interpolation',
              Dashboard='dashboard', CaptionReview='review', DatasetBrowser='browse', ArchitectureChooser='chooser',
              WordAttention='attention')
__all__ = list(_WHERE)

def __getattr__(name):  # PEP 562: a name loads its module when it is first used, so that `promptgan --help` need not wait for torch
    if name not in _WHERE: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'.{_WHERE[name]}', __name__), name)

def __dir__(): return [*globals(), *__all__]
